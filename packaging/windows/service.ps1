# Keeps a drive mounted for a user: a task that starts at sign-in. Run it as that user; -Remove takes the task away.
#
# A task and no service: letters that a service mounts are seen by everybody on the machine, and a service has no access to the key of a user. Whoever wants
# a drive for all users mounts a share instead (\\yesterdrive\backups) with --allow-other, from a task of an administrator.
param([string]$Place = 'Y:', [string]$Profile = 'default', [switch]$Remove)
$ErrorActionPreference = 'Stop'
$name = 'Yesterdrive drive'
if ($Remove) {
    Unregister-ScheduledTask -TaskName $name -Confirm:$false
    return
}
$program = Join-Path $PSScriptRoot 'yesterdrive.exe'
if (-not (Test-Path $program)) { $program = (Get-Command yesterdrive.exe).Source }
$action = New-ScheduledTaskAction -Execute $program -Argument "--profile $Profile mount $Place --background"
$trigger = New-ScheduledTaskTrigger -AtLogOn -User "$env:USERDOMAIN\$env:USERNAME"
# Not elevated: a letter belongs to the session that mounts it.
$principal = New-ScheduledTaskPrincipal -UserId "$env:USERDOMAIN\$env:USERNAME" -LogonType Interactive -RunLevel Limited
$settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -ExecutionTimeLimit ([TimeSpan]::Zero)
Register-ScheduledTask -TaskName $name -Action $action -Trigger $trigger -Principal $principal -Settings $settings -Force | Out-Null
Write-Output "the drive comes to $Place at the next sign-in; 'Start-ScheduledTask ""$name""' starts it now"
