#!/bin/sh
# Imports deploy/monitoring/zabbix.yaml with the code of Zabbix itself, without a server: zabbix.sh DIRECTORY, into which
# the packages of Zabbix are unpacked.
set -eu
directory=${1:?usage: zabbix.sh DIRECTORY}
template=deploy/monitoring/zabbix.yaml
"$(dirname "$0")/servers.sh" "$directory" zabbix-frontend-php zabbix-server-mysql php-cli php-mbstring php-xml

LD_LIBRARY_PATH=$(echo "$directory"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
set --
for extension in ctype dom gettext mbstring simplexml tokenizer xml xmlreader xmlwriter; do
	set -- "$@" -d "extension=$(cd "$directory" && echo "$PWD"/usr/lib/php/2*/"$extension.so")"
done
exec "$directory"/usr/bin/php[0-9]* -n "$@" -d "error_reporting=E_ALL & ~E_DEPRECATED" tools/zabbix.php \
	"$directory/usr/share/zabbix" "$directory/usr/bin/zabbix_js" "$template"
