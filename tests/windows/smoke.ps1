# The drive on a real Windows: mounts X:, compares it with what was saved, tries to change it, unmounts. Needs WinFsp and a program that was built.
# usage: tests/windows/smoke.ps1 [PROGRAM]
param([string]$Program = 'target\debug\yesterdrive.exe')
$ErrorActionPreference = 'Stop'
$Program = (Resolve-Path $Program).Path
$work = Join-Path ([IO.Path]::GetTempPath()) ("yesterdrive-" + [Guid]::NewGuid())
$source = Join-Path $work 'source'
$script:passed = 0
$script:failed = 0

function Check([string]$name, [scriptblock]$test) {
    try {
        if (-not (& $test)) { throw 'it is not so' }
        $script:passed++
        Write-Output "test smoke::$name ... ok"
    } catch {
        $script:failed++
        Write-Output "test smoke::$name ... FAILED: $_"
    }
}
# Whether a change is refused, as "write protected" and with no other words.
function Refused([scriptblock]$change) {
    try { & $change | Out-Null; return $false } catch { return $_.Exception.GetBaseException().HResult -in 0x80070013, -2147024877 -or "$_" -match 'protected' }
}

New-Item -ItemType Directory -Force $source, "$source\many", "$source\Grüße" | Out-Null
$bytes = New-Object byte[] 5000003
(New-Object Random 7).NextBytes($bytes)
[IO.File]::WriteAllBytes("$source\big.bin", $bytes)
[IO.File]::WriteAllText("$source\Grüße\Brief.txt", 'Hallo')
Set-Content -Path "$source\Grüße\Brief.txt" -Stream 'Zone.Identifier' -Value 'ZoneId=3'
1..3000 | ForEach-Object { [IO.File]::WriteAllText("$source\many\file $_.txt", "$_") }
$long = $source
1..8 | ForEach-Object { $long = Join-Path $long ('a rather long name of a folder, number ' + $_) }
[IO.Directory]::CreateDirectory("\\?\$long") | Out-Null
[IO.File]::WriteAllText("\\?\$long\deep.txt", 'deep')

$env:YESTERDRIVE_REPOSITORY = Join-Path $work 'repository'
$env:YESTERDRIVE_KEY_FILE = Join-Path $work 'key'
& $Program init --new-key-file $env:YESTERDRIVE_KEY_FILE --accept-loss
& $Program backup --host smoke $source
if ($LASTEXITCODE -notin 0, 3) { throw "the backup ended with $LASTEXITCODE" }
$drive = Start-Process -PassThru -NoNewWindow $Program -ArgumentList 'mount', 'X:'
$until = (Get-Date).AddSeconds(30)
while (-not (Test-Path 'X:\Latest\smoke') -and (Get-Date) -lt $until -and -not $drive.HasExited) { Start-Sleep -Milliseconds 100 }

try {
    $saved = 'X:\Latest\smoke\' + $source.Replace(':', '')
    Check 'the_drive_is_there' { Test-Path $saved }
    Check 'every_file_has_its_hash' {
        $here = Get-ChildItem -Recurse -File $source | ForEach-Object { (Get-FileHash $_.FullName).Hash } | Sort-Object
        $there = Get-ChildItem -Recurse -File $saved | ForEach-Object { (Get-FileHash $_.FullName).Hash } | Sort-Object
        $here.Count -gt 3000 -and -not (Compare-Object $here $there)
    }
    Check 'robocopy_brings_everything_back' {
        robocopy $saved "$work\copied" /E /COPY:DAT /NFL /NDL /NJH /NJS /R:0 | Out-Null
        $LASTEXITCODE -lt 8 -and (Get-ChildItem -Recurse -File "$work\copied").Count -eq (Get-ChildItem -Recurse -File $source).Count
    }
    Check 'a_mapped_file_is_read' {
        $map = [IO.MemoryMappedFiles.MemoryMappedFile]::CreateFromFile("$saved\big.bin", 'Open', $null, 0, 'Read')
        $view = $map.CreateViewAccessor(0, 0, 'Read')
        $same = $view.ReadByte(4999999) -eq $bytes[4999999]
        $view.Dispose(); $map.Dispose(); $same
    }
    Check 'other_case' { [IO.File]::ReadAllText("$saved\GRÜSSE\brief.TXT".Replace('GRÜSSE', 'GRÜßE')) -eq 'Hallo' }
    Check 'a_long_path' { [IO.File]::ReadAllText("\\?\$long\deep.txt".Replace($source, $saved)) -eq 'deep' }
    Check 'alternate_streams_are_there' { (Get-Content "$saved\Grüße\Brief.txt" -Stream 'Zone.Identifier') -eq 'ZoneId=3' }
    Check 'a_restore_brings_streams_back' {
        & $Program restore "latest:$source" --to "$work\restored" | Out-Null
        (Get-Content "$work\restored\Grüße\Brief.txt" -Stream 'Zone.Identifier') -eq 'ZoneId=3'
    }
    Check 'permissions_are_shown' { (Get-Acl "$saved\big.bin").Access.Count -gt 0 }
    Check 'the_volume_is_read_only' { (fsutil fsinfo volumeinfo X:) -match 'Read-Only' }
    Check 'nothing_is_made' { Refused { [IO.File]::WriteAllText("$saved\new.txt", 'x') } }
    Check 'nothing_is_appended' { Refused { [IO.File]::AppendAllText("$saved\Grüße\Brief.txt", 'x') } }
    Check 'nothing_is_deleted' { Refused { [IO.File]::Delete("$saved\Grüße\Brief.txt") } }
    Check 'nothing_is_renamed' { Refused { [IO.File]::Move("$saved\Grüße\Brief.txt", "$saved\x.txt") } }
    Check 'no_attribute_is_changed' { Refused { [IO.File]::SetAttributes("$saved\Grüße\Brief.txt", 'Hidden') } }
    Check 'new_snapshots_appear' {
        & $Program backup --host smoke $source | Out-Null
        $until = (Get-Date).AddSeconds(10)
        while ((Get-ChildItem 'X:\Snapshots\smoke').Count -lt 2 -and (Get-Date) -lt $until) { Start-Sleep -Milliseconds 200 }
        (Get-ChildItem 'X:\Snapshots\smoke').Count -eq 2
    }
    Check 'unmount_ends_it' { & $Program unmount X: | Out-Null; $drive.WaitForExit(20000) -and -not (Test-Path 'X:\') }
    Check 'a_killed_program_takes_its_letter_along' {
        $other = Start-Process -PassThru -NoNewWindow $Program -ArgumentList 'mount', 'X:'
        $until = (Get-Date).AddSeconds(30)
        while (-not (Test-Path 'X:\Latest') -and (Get-Date) -lt $until) { Start-Sleep -Milliseconds 100 }
        Stop-Process -Force $other
        $until = (Get-Date).AddSeconds(20)
        while ((Test-Path 'X:\') -and (Get-Date) -lt $until) { Start-Sleep -Milliseconds 100 }
        -not (Test-Path 'X:\')
    }
} finally {
    if (-not $drive.HasExited) { Stop-Process -Force $drive }
    Remove-Item -Recurse -Force "\\?\$work"
}
Write-Output "test result: $(if ($failed) { 'FAILED' } else { 'ok' }). $passed passed; $failed failed"
exit [int]($failed -gt 0)
