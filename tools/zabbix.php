<?php
// Imports the template for Zabbix with the code of Zabbix's frontend: zabbix.php FRONTEND ZABBIX_JS FILE.
//
// The frontend reads the file, compares it with the format, and puts numbers in place of constants. After that the
// keys of items and the expressions of triggers are parsed, as Zabbix does before it saves them, and the scripts of
// the discovery rules run. Needs no database.

const STATUS = '{"pools": [{"name": "dns", "backends": [{"name": "ns1"}, {"name": "ns2"}]}]}';
const FOUND = [
	[['{#POOL}' => 'dns']],
	[['{#POOL}' => 'dns', '{#BACKEND}' => 'ns1'], ['{#POOL}' => 'dns', '{#BACKEND}' => 'ns2']],
];

[, $frontend, $engine, $file] = $argv;

function fail(string $why): never {
	fwrite(STDERR, "$why\n");
	exit(1);
}

function scripts(array $data): array {
	$inner = array_map('scripts', array_values(array_filter($data, 'is_array')));
	return array_merge(($data['type'] ?? '') === 'JAVASCRIPT' ? [$data['parameters'][0]] : [], ...$inner);
}

function folders(string $folder): array {
	return array_merge([$folder], ...array_map('folders', glob("$folder/*", GLOB_ONLYDIR)));
}

$folders = folders("$frontend/include/classes");
spl_autoload_register(function (string $class) use ($folders) {
	foreach (array_filter($folders, fn($folder) => is_file("$folder/$class.php")) as $folder) {
		require "$folder/$class.php";
	}
});
foreach (['vendor/autoload', 'include/defines.inc', 'include/gettextwrapper.inc', 'include/translateDefines.inc', 'include/func.inc'] as $part) {
	require "$frontend/$part.php";
}

try {
	$data = CImportReaderFactory::getReader('yaml')->read(file_get_contents($file));
	$scripts = scripts($data);
	$formats = new CImportValidatorFactory('yaml');
	$data = (new CXmlValidator($formats, 'yaml'))->setStrict(true)->validate($data, '/');
	$schema = $formats->getObject($data['zabbix_export']['version'])->getSchema();
	$data = (new CDefaultImportConverter($schema))->convert((new CConstantImportConverter($schema))->convert($data));
} catch (Exception $problem) {
	fail($problem->getMessage());
}

$options = ['usermacros' => true, 'lldmacros' => true];
$count = ['key' => 0, 'expression' => 0];
array_walk_recursive($data, function ($value, $name) use ($options, &$count) {
	if ($name !== 'key' && $name !== 'expression') {
		return;
	}
	$parser = $name === 'key' ? new CItemKey() : new CExpressionParser($options);
	if ($parser->parse($value) !== CParser::PARSE_SUCCESS) {
		fail("not a valid $name: $value");
	}
	$validator = new CExpressionValidator($options);
	if ($name === 'expression' && !$validator->validate($parser->getResult()->getTokens())) {
		fail("$value: {$validator->getError()}");
	}
	$count[$name]++;
});
$temporary = tempnam(sys_get_temp_dir(), 'zabbix');
foreach ($scripts as $number => $script) {
	file_put_contents($temporary, $script);
	$output = shell_exec(escapeshellarg($engine)." -s $temporary -p ".escapeshellarg(STATUS)." 2>&1");
	if (json_decode($output, true) !== FOUND[$number]) {
		fail("the script of a discovery rule returns: $output");
	}
}
unlink($temporary);
$number = count($scripts);
echo "fine: {$count['key']} keys, {$count['expression']} expressions, $number scripts\n";
