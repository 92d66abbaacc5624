# Shows the drive in Explorer; mounts it first if it is not there. What to open stands in the profile (config.toml), with a key that needs no typing.
$ErrorActionPreference = 'Stop'
$program = Join-Path $PSScriptRoot 'yesterdrive.exe'
if (-not (Test-Path $program)) { $program = 'yesterdrive.exe' }

$drive = & $program mounts --json | ForEach-Object { $_ | ConvertFrom-Json } | Where-Object { $_.type -eq 'mount' } | Select-Object -First 1
if (-not $drive) {
    $drive = & $program mount '*' --background --json | ForEach-Object { $_ | ConvertFrom-Json } | Where-Object { $_.type -eq 'mounted' } | Select-Object -First 1
}
if ($drive) {
    Start-Process explorer.exe ($drive.path + '\')
} else {
    # The program has said what is missing.
    Read-Host 'Press Enter to close'
}
