#!/bin/sh
# Builds DIRECTORY/nftlb-daemon_VERSION~debRELEASE_ARCHITECTURE.deb for the Debian release of this machine, and prints
# its path. By default VERSION is that of pyproject.toml and DIRECTORY is dist. Needs no root.
#
# The package has a virtual environment with the files whose hashes are in requirements/run.txt. The environment also
# uses the distribution's Python packages, because the nftables binding must be that of the distribution. It works only
# with the minor version of Python that built it.
set -eu
venv=${1:?usage: deb.sh VENV [VERSION [DIRECTORY]]}
version=${2:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}
directory=${3:-dist}
python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
after=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
release=$(. /etc/os-release && echo "${VERSION_ID:-$VERSION_CODENAME}")
full=$version~deb$release
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
umask 022
root=$work/root
private=$root/usr/lib/nftlb

# A copy, so that VERSION can be set, and the build leaves no files in the tree.
mkdir "$work/source"
cp -r nftlb pyproject.toml README.md LICENSE "$work/source"
sed -i "s/^version = .*/version = \"$version\"/" "$work/source/pyproject.toml"

mkdir -p "$root/usr/lib"
/usr/bin/python3 -m venv --system-site-packages --without-pip "$private"
# --ignore-installed: packages that this machine's Python already has must be in the package too.
"$venv/bin/python" -m pip --python "$private/bin/python3" install -qq --disable-pip-version-check --no-compile \
	--no-warn-script-location --ignore-installed --require-hashes --only-binary :all: -r requirements/run.txt >&2
"$venv/bin/python" -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w "$work/wheel" \
	"$work/source" >&2
"$venv/bin/python" -m pip --python "$private/bin/python3" install -qq --disable-pip-version-check --no-compile \
	--no-warn-script-location --no-deps --no-index "$work"/wheel/*.whl >&2
find "$private/bin" -type f -delete
rm -r "$private/include"
find "$private" \( -name direct_url.json -o -name __pycache__ \) -prune -exec rm -r {} +
printf 'home = /usr/bin\ninclude-system-site-packages = true\nversion = %s\n' "$python" >"$private/pyvenv.cfg"
cat >"$private/bin/nftlb" <<'SCRIPT'
#!/usr/lib/nftlb/bin/python3 -I
import sys

from nftlb.cli import main

sys.exit(main())
SCRIPT
chmod 755 "$private/bin/nftlb"
/usr/bin/python3 -m compileall -q -j 0 -s "$root" -p / --invalidation-mode unchecked-hash "$private/lib" >&2

install -d "$root/usr/bin" "$root/etc/nftlb"
ln -s ../lib/nftlb/bin/nftlb "$root/usr/bin/nftlb"
install -m 644 -D -t "$root/usr/lib/systemd/system" deploy/systemd/*.service
install -m 755 -D deploy/keepalived/nftlb-ready "$root/usr/lib/nftlb/nftlb-ready"
install -m 755 nftlb/preload.sh "$root/usr/lib/nftlb/nftlb-preload"
install -m 644 -D deploy/debian/nftlb.sysusers "$root/usr/lib/sysusers.d/nftlb.conf"
install -m 644 -D deploy/debian/copyright "$root/usr/share/doc/nftlb-daemon/copyright"
install -m 644 -D CHANGELOG.md "$root/usr/share/doc/nftlb-daemon/changelog"
install -m 644 -D deploy/debian/nftlb.8 "$root/usr/share/man/man8/nftlb.8"
gzip -9n "$root/usr/share/doc/nftlb-daemon/changelog" "$root/usr/share/man/man8/nftlb.8"
install -m 644 -D -t "$root/usr/share/doc/nftlb-daemon" README.md docs/*.md
install -m 644 -D -t "$root/usr/share/doc/nftlb-daemon/uses" docs/uses/*.md
install -m 644 -D -t "$root/usr/share/doc/nftlb-daemon/images" docs/images/*.svg
install -m 644 -D -t "$root/usr/share/doc/nftlb-daemon/examples" rules/*.yaml deploy/debian/nftlb.yaml \
	deploy/keepalived/keepalived.conf deploy/monitoring/*

install -d "$root/DEBIAN"
install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
size=$(du -sk "$root" | cut -f1)
sed "s/@VERSION@/$full/; s/@ARCHITECTURE@/$architecture/; s/@SIZE@/$size/; s/@PYTHON@/$python/; s/@AFTER@/$after/" \
	deploy/debian/control >"$root/DEBIAN/control"

mkdir -p "$directory"
package=$directory/nftlb-daemon_${full}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$package" >&2
echo "$package"
