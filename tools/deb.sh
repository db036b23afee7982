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
maintainer="The nftlb authors <${DEBEMAIL:-nftlb@localhost}>"

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
	--no-warn-script-location --ignore-installed --require-hashes --only-binary :all: --report "$work/report.json" \
	-r requirements/run.txt >&2
"$venv/bin/python" -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w "$work/wheel" \
	"$work/source" >&2
"$venv/bin/python" -m pip --python "$private/bin/python3" install -qq --disable-pip-version-check --no-compile \
	--no-warn-script-location --no-deps --no-index "$work"/wheel/*.whl >&2
find "$private/bin" -type f -delete
# These scripts, and direct_url.json, have the path of this build in them, and RECORD has their hashes.
find "$private/lib" -path '*.dist-info/RECORD' -exec sed -i '\:^\.\./\.\./\.\./bin/\|/direct_url\.json,:d' {} +
# What packages of PyPI have by mistake: examples beside the packages, and files of a desktop.
rm -rf "$private"/lib/python*/site-packages/example
find "$private/lib" -name .DS_Store -delete
ln -sf ../../../bin/python3 "$private/bin/python3"
rm -rf "$private/include" "$private/.gitignore"
find "$private" \( -name direct_url.json -o -name __pycache__ \) -prune -exec rm -r {} +
printf 'home = /usr/bin\ninclude-system-site-packages = true\nversion = %s\n' "$python" >"$private/pyvenv.cfg"
cat >"$private/bin/nftlb" <<'SCRIPT'
#!/usr/lib/nftlb/bin/python3 -I
import sys

from nftlb.cli import main

sys.exit(main())
SCRIPT
chmod 755 "$private/bin/nftlb"
# In one process: the bytes of a compiled file depend on the files that the process compiled before.
/usr/bin/python3 -m compileall -q -s "$root" -p / --invalidation-mode unchecked-hash "$private/lib" >&2

install -d "$root/usr/bin" "$root/etc/nftlb"
ln -s ../lib/nftlb/bin/nftlb "$root/usr/bin/nftlb"
install -m 644 -D -t "$root/usr/lib/systemd/system" deploy/systemd/*.service
install -m 755 -D deploy/keepalived/nftlb-ready "$root/usr/lib/nftlb/nftlb-ready"
install -m 755 nftlb/preload.sh "$root/usr/lib/nftlb/nftlb-preload"
install -m 644 -D deploy/debian/nftlb.sysusers "$root/usr/lib/sysusers.d/nftlb.conf"
install -m 644 -D deploy/debian/copyright "$root/usr/share/doc/nftlb-daemon/copyright"
install -m 644 -D deploy/debian/lintian-overrides "$root/usr/share/lintian/overrides/nftlb-daemon"
# The changes are in CHANGELOG.md, which is one of the documents. Debian demands a file in its own format too.
{
	printf 'nftlb-daemon (%s) stable; urgency=medium\n\n' "$full"
	printf '  * CHANGELOG.md in this directory has the changes.\n\n'
	printf ' -- %s  %s\n' "$maintainer" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$root/usr/share/doc/nftlb-daemon/changelog.gz"
PYTHONPATH=. "$venv/bin/python" tools/documents.py "$root/usr/share/doc/nftlb-daemon"
"$venv/bin/python" tools/sbom.py "$full" "$work/report.json" "$private/lib/python$python/site-packages" \
	>"$root/usr/share/doc/nftlb-daemon/sbom.cdx.json"
install -m 644 -D -t "$root/usr/share/doc/nftlb-daemon/examples" rules/*.yaml deploy/debian/nftlb.yaml \
	deploy/keepalived/keepalived.conf deploy/monitoring/*

PYTHONPATH="$work/source" "$venv/bin/python" tools/manual.py "$work/manual"
for page in "$work"/manual/*; do
	gzip -9n "$page"
	install -m 644 -D -t "$root/usr/share/man/man${page##*.}" "$page.gz"
done
completion() { # completion SHELL FILE
	mkdir -p "$(dirname "$root/usr/share/$2")"
	PYTHONPATH="$work/source" "$venv/bin/python" -m nftlb completion "$1" >"$root/usr/share/$2"
}
completion bash bash-completion/completions/nftlb
completion zsh zsh/vendor-completions/_nftlb
completion fish fish/vendor_completions.d/nftlb.fish

install -d "$root/DEBIAN"
install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
# As Debian computes it, and not what the files take on the file system of this machine.
size=$(find "$root/usr" "$root/etc" -printf '%y %s\n' | awk '{ size += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print size }')
sed "s/@MAINTAINER@/$maintainer/; s/@VERSION@/$full/; s/@ARCHITECTURE@/$architecture/; s/@SIZE@/$size/; s/@PYTHON@/$python/; s/@AFTER@/$after/" \
	deploy/debian/control >"$root/DEBIAN/control"

mkdir -p "$directory"
package=$directory/nftlb-daemon_${full}_$architecture.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$package" >&2
echo "$package"
