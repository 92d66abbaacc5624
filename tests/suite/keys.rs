//! Keys as people handle them: names, passwords, where they come from, recovery sheets, and what the program does with them in memory.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tests::driven::Driven;

const PASSWORD: &str = "correct horse battery";
const OTHER: &str = "seven ships sail slowly south";

/// A repository that the key file `key` opens, and what is needed to try other keys on it.
fn place() -> Driven {
    let place = Driven::new("repository").unwrap();
    place.run(&["init", "--new-key-file", "key", "--accept-loss"]).unwrap();
    place
}

fn secret(place: &Driven, name: &str, text: &str) {
    std::fs::write(place.path(name), text).unwrap();
    std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(0o600)).unwrap();
}

fn output(place: &Driven, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = place.command(arguments).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn fails(place: &Driven, arguments: &[&str], code: i32, says: &str) {
    let (exit, said) = output(place, arguments);
    assert_eq!((exit, said.contains(says)), (Some(code), true), "{arguments:?}: {said}");
}

fn list(place: &Driven) -> Vec<Value> {
    let listed = place.run(&["--key-file", "key", "key", "list", "--json"]).unwrap();
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn named(place: &Driven, name: &str) -> Value {
    list(place).into_iter().find(|key| key["name"] == name).unwrap_or_else(|| panic!("no key {name}"))
}

fn opens(place: &Driven, with: &[&str]) -> bool {
    let (exit, said) = output(place, &[with, &["snapshots"]].concat());
    assert!([Some(0), Some(4)].contains(&exit), "{said}");
    exit == Some(0)
}

fn has_repository(place: &Driven) -> bool {
    std::fs::read_dir(place.path("repository/repo")).is_ok_and(|mut names| names.next().is_some())
}

#[test]
fn keys_have_names_and_go_by_them() {
    let place = place();
    secret(&place, "anna", PASSWORD);
    secret(&place, "bert", OTHER);
    let add = ["--key-file", "key", "key", "add", "--new-password-file"];
    place.run(&[&add[..], &["anna", "--name", "Anna"]].concat()).unwrap();
    place.run(&[&add[..], &["bert"]].concat()).unwrap();
    fails(&place, &[&add[..], &["bert", "--name", "Anna"]].concat(), 2, "a key 'Anna' already");
    place.run(&["--key-file", "key", "key", "add", "--new-key-file", "key2"]).unwrap();
    let mut names: Vec<_> = list(&place).iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["Anna", "key file", "key file 2", "password"]);
    assert_eq!((&named(&place, "Anna")["kind"], &named(&place, "Anna")["role"]), (&"password".into(), &"owner".into()));
    assert_eq!(named(&place, "key file 2")["password_changed"], Value::Null);

    assert!(opens(&place, &["--password-file", "anna"]));
    let (exit, said) = output(&place, &["--key-file", "key", "key", "remove", "Anna"]);
    assert_eq!(exit, Some(0), "{said}");
    for promise in ["may have kept the keys inside", "change the access to the store", "new repository"] {
        assert!(said.contains(promise), "{said}");
    }
    assert!(!opens(&place, &["--password-file", "anna"]));
    assert!(opens(&place, &["--password-file", "bert"]));
    fails(&place, &["--key-file", "key", "key", "remove", "Anna"], 2, "no key has the name");
    let id = named(&place, "password")["id"].as_str().unwrap().to_owned();
    place.run(&["--key-file", "key", "key", "remove", &id]).unwrap();
    place.run(&["--key-file", "key", "key", "remove", "key file 2"]).unwrap();
    fails(&place, &["--key-file", "key", "key", "remove", "key file"], 1, "the last key");
    assert!(opens(&place, &["--key-file", "key"]));
}

#[test]
fn a_changed_password_is_the_same_key() {
    let place = place();
    secret(&place, "old", PASSWORD);
    secret(&place, "new", OTHER);
    place.run(&["--key-file", "key", "key", "add", "--name", "Anna", "--new-password-file", "old"]).unwrap();
    let before = named(&place, "Anna");
    assert_eq!(before["password_changed"], before["created"]);
    fails(&place, &["--key-file", "key", "key", "password", "--new-password-file", "new"], 2, "with the password that is to be changed");
    place.run(&["--password-file", "old", "key", "password", "--new-password-file", "new"]).unwrap();
    let after = named(&place, "Anna");
    assert_eq!((&after["created"], list(&place).len()), (&before["created"], 2));
    assert!(after["password_changed"].as_str() > before["password_changed"].as_str() && after["id"] != before["id"], "{after}");
    assert!(opens(&place, &["--password-file", "new"]) && !opens(&place, &["--password-file", "old"]));
}

#[test]
fn weak_passwords_are_refused_when_they_are_made_and_never_when_they_open() {
    let place = place();
    let add = ["--key-file", "key", "key", "add", "--new-password-file"];
    for (weak, says) in [("short", "fewer than 14"), ("Password123456", "knows habits"), ("aaaaaaaaaaaaaaaaaaaaaa", "knows habits")] {
        secret(&place, "weak", weak);
        fails(&place, &[&add[..], &["weak"]].concat(), 2, says);
        fails(&place, &[&add[..], &["weak"]].concat(), 2, "20 characters or more");
        fails(&place, &["--repository", "another", "--password-file", "weak", "init", "--accept-loss"], 2, says);
    }
    assert_eq!(list(&place).len(), 1);
    secret(&place, "weak", "short");
    place.run(&[&add[..], &["weak", "--weak-password"]].concat()).unwrap();
    assert!(opens(&place, &["--password-file", "weak"]));
    secret(&place, "empty", "\n");
    fails(&place, &[&add[..], &["empty", "--weak-password"]].concat(), 2, "0 characters");
}

#[test]
fn passwords_come_from_files_commands_and_the_environment() {
    let place = place();
    secret(&place, "password", PASSWORD);
    place.run(&["--key-file", "key", "key", "add", "--new-password-file", "password"]).unwrap();
    assert!(opens(&place, &["--password-command", "cat password"]));
    fails(&place, &["--password-command", "echo no >&2; exit 3", "snapshots"], 1, "failed with exit status: 3");
    fails(&place, &["--password-command", "echo wrong", "snapshots"], 4, "opens none");
    let status = place.command(&["snapshots"]).env("YESTERDRIVE_PASSWORD", PASSWORD).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());

    // What others can read is used, and told.
    let warning = "can be read or changed by others: chmod 600";
    for (file, flag) in [("password", "--password-file"), ("key", "--key-file")] {
        for (mode, is_told) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o622, true)] {
            std::fs::set_permissions(place.path(file), PermissionsExt::from_mode(mode)).unwrap();
            let (exit, said) = output(&place, &[flag, file, "snapshots"]);
            assert_eq!((exit, said.contains(warning)), (Some(0), is_told), "{mode:o}: {said}");
        }
    }
}

/// The kernel of a container may have no keyrings, or let nobody use them; then the program has to say so.
#[test]
fn the_keyring_of_the_system_holds_a_password_or_the_program_says_why_not() {
    let place = place();
    secret(&place, "password", PASSWORD);
    place.run(&["--key-file", "key", "key", "add", "--new-password-file", "password"]).unwrap();
    let (exit, said) = output(&place, &["--keyring", "snapshots"]);
    if exit == Some(1) && said.contains("keyring cannot be used") {
        assert!(said.contains("--password-command"), "{said}");
        return;
    }
    assert_eq!((exit, said.contains("'yesterdrive key remember'")), (Some(2), true), "{said}");
    fails(&place, &["--password-command", "echo wrong", "key", "remember"], 4, "opens none");
    fails(&place, &["--key-file", "key", "key", "remember"], 2, "with one");
    place.run(&["--password-file", "password", "key", "remember"]).unwrap();
    assert!(opens(&place, &["--keyring"]));
    let elsewhere = place.command(&["snapshots"]).env("YESTERDRIVE_KEYRING", "1").stderr(Stdio::null()).status().unwrap();
    assert!(elsewhere.success());
    fails(&place, &["--keyring", "--repository", "another", "snapshots"], 5, "another");
    place.run(&["key", "remember", "--remove"]).unwrap();
    fails(&place, &["--keyring", "snapshots"], 2, "holds no password");
    fails(&place, &["key", "remember", "--remove"], 2, "holds no password");
}

/// What a program of the system prints.
fn tool(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).current_dir(folder).args(arguments).output().expect("tests/run installs what this needs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_printed_sheet_opens_the_repository_by_its_words_and_by_its_code() {
    let place = Driven::new("repository, Büro (1)").unwrap();
    std::fs::write(place.source().join("letter"), "dear all").unwrap();
    place.run(&["init", "--new-key-file", "key", "--sheet", "sheet.pdf"]).unwrap();
    place.run(&["--key-file", "key", "backup", "source"]).unwrap();
    assert_eq!(place.path("sheet.pdf").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let folder = place.path(".");

    let text = tool(&folder, "pdftotext", &["-layout", "sheet.pdf", "-"]);
    let address = place.path("repository, Büro (1)").display().to_string();
    let id = std::fs::read_dir(place.path("repository, Büro (1)/repo")).unwrap().count();
    assert_eq!(id, 1);
    // A long line is broken.
    let in_one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for fact in [&address, "id: ", "RECOVERY SHEET", "24. ", "restore latest:/ --to FOLDER"] {
        assert!(in_one_line.contains(fact), "{fact}: {text}");
    }
    assert_eq!(
        tool(&folder, "pdfinfo", &["sheet.pdf"]).lines().find(|line| line.starts_with("Pages")).unwrap().split(' ').next_back(),
        Some("1")
    );
    secret(&place, "copied", &text);
    assert!(opens(&place, &["--recovery-file", "copied"]));
    let lines: Vec<_> = text.lines().filter_map(without_numbers).collect();
    assert_eq!(lines.len(), 4, "{text}");
    secret(&place, "typed", &lines.join("\n"));
    assert!(opens(&place, &["--recovery-file", "typed"]));
    // A check word fits to one wrong word in 2048.
    let is_line_named = ["zoo", "zone", "zero", "zebra"].into_iter().any(|word| {
        let rest = lines[2].split_once(' ').unwrap().1;
        secret(&place, "wrong", &format!("{}\n{}\n{word} {rest}\n{}", lines[0], lines[1], lines[3]));
        let (exit, said) = output(&place, &["--recovery-file", "wrong", "snapshots"]);
        exit == Some(2) && said.contains("in line 3 ")
    });
    assert!(is_line_named);

    tool(&folder, "pdftoppm", &["-r", "150", "-png", "sheet.pdf", "page"]);
    let scanned = tool(&folder, "zbarimg", &["--quiet", "--raw", "page-1.png"]);
    assert_eq!(scanned.split_whitespace().count(), 24);
    secret(&place, "scanned", &scanned);
    place.run(&["--recovery-file", "scanned", "restore", "latest:/", "--to", "restored"]).unwrap();
    let letter = place.path("restored").join(place.source().strip_prefix("/").unwrap()).join("letter");
    assert_eq!(std::fs::read_to_string(letter).unwrap(), "dear all");

    // A later sheet says what the newest snapshot was: with it alone an older state of everything is noticed.
    let before = place.path("before");
    tool(&folder, "cp", &["-a", "repository, Büro (1)", "before"]);
    place.run(&["--key-file", "key", "backup", "source"]).unwrap();
    place.run(&["--key-file", "key", "key", "recovery", "--name", "second", "--sheet", "second.pdf"]).unwrap();
    let text = tool(&folder, "pdftotext", &["-layout", "second.pdf", "-"]);
    let in_one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let newest = in_one_line.split_once("check --expect ").unwrap().1.split(' ').next().unwrap().to_owned();
    assert!(in_one_line.contains(&format!("snapshot: {newest}")), "{text}");
    let check = |repository: &str| output(&place, &["--key-file", "key", "--repository", repository, "check", "--expect", &newest]);
    assert_eq!(check(&address).0, Some(0), "{:?}", check(&address));
    let (exit, said) = check(&before.display().to_string());
    assert!(exit != Some(0) && said.contains(&newest), "{exit:?} {said}");
}

/// Six words and their check word; `None` of other lines.
fn without_numbers(line: &str) -> Option<String> {
    let tokens: Vec<_> = line.split_whitespace().collect();
    let is_line = tokens.len() == 14 && tokens[0].ends_with('.') && tokens[12] == "check";
    is_line.then(|| tokens.iter().skip(1).step_by(2).copied().collect::<Vec<_>>().join(" "))
}

#[test]
fn sheets_are_never_written_over_and_another_one_can_be_made() {
    let place = place();
    secret(&place, "sheet", "mine");
    fails(&place, &["--repository", "another", "init", "--new-key-file", "key3", "--sheet", "sheet"], 1, "exists already");
    assert!(!place.path("key3").exists() && !place.path("another").exists());
    fails(&place, &["--key-file", "key", "key", "recovery", "--sheet", "sheet"], 1, "sheet");
    assert_eq!((std::fs::read_to_string(place.path("sheet")).unwrap().as_str(), list(&place).len()), ("mine", 1));
    place.run(&["--key-file", "key", "key", "recovery", "--sheet", "sheet.txt", "--name", "safe"]).unwrap();
    assert_eq!(place.path("sheet.txt").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(opens(&place, &["--recovery-file", "sheet.txt"]));
    place.run(&["--key-file", "key", "key", "remove", "safe"]).unwrap();
    assert!(!opens(&place, &["--recovery-file", "sheet.txt"]));
    let (exit, said) = output(&place, &["--repository", "another", "init", "--new-key-file", "key3"]);
    assert_eq!((exit, said.contains("--accept-loss")), (Some(2), true), "{said}");
    assert!(!place.path("another").exists() && !place.path("key3").exists());
}

/// Runs `init` in a terminal. The first three lines name program, arguments and folder; what is typed is said by `ANSWERS`: the words that are asked for, or Ctrl-C.
const TERMINAL: &str = r#"
import os, pty, re, select, signal, sys
program, answers, *arguments = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    # Whoever runs the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(program, [program] + arguments)
said, answered, made_early = "", 0, False
while True:
    if not select.select([terminal], [], [], 60)[0]:
        sys.exit("nothing is said any more: " + said)
    try:
        piece = os.read(terminal, 4096).decode()
    except OSError:
        break
    if not piece:
        break
    said += piece
    asked = re.findall(r"Word (\d+): ", said)
    if len(asked) > answered:
        answered += 1
        made_early = made_early or bool(os.path.isdir("repository/repo") and os.listdir("repository/repo"))
        sheet = open("sheet").read() if os.path.exists("sheet") else said
        word = re.search(r"\b%s\. (\w+)" % asked[-1], sheet).group(1)
        if answers == "interrupt":
            os.write(terminal, b"\x03")
        elif answered == 1:
            os.write(terminal, b"nonsense\n")
        else:
            os.write(terminal, word.upper().encode() + b"\n")
print(said)
print("answered", answered, "early", made_early, "exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

fn in_a_terminal(place: &Driven, answers: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.env_clear().env("HOME", place.path(".")).env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(place.path("."));
    let program = place.command(&[]).get_program().to_owned();
    command.args(["-c", TERMINAL]).arg(program).arg(answers).args(["--repository", "repository"]).args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn init_in_a_terminal_asks_for_three_words_before_anything_is_made() {
    for sheet in [&[][..], &["--sheet", "sheet"]] {
        let place = Driven::new("repository").unwrap();
        let said = in_a_terminal(&place, "words", &[&["init", "--new-key-file", "key"], sheet].concat());
        // One answer was wrong and is asked for again.
        assert!(said.contains("answered 4 early False exit 0"), "{said}");
        assert_eq!(said.matches("That is another word").count(), 1, "{said}");
        assert!(has_repository(&place) && opens(&place, &["--key-file", "key"]));
        assert_eq!(said.contains(" check "), sheet.is_empty(), "{said}");
        secret(&place, "said", if sheet.is_empty() { &said } else { "" });
        let words = if sheet.is_empty() { "said" } else { "sheet" };
        assert!(opens(&place, &["--recovery-file", words]), "{said}");
    }
}

#[test]
fn who_gives_up_has_no_repository_and_no_sheet() {
    for sheet in [&[][..], &["--sheet", "sheet"]] {
        let place = Driven::new("repository").unwrap();
        let said = in_a_terminal(&place, "interrupt", &[&["init", "--new-key-file", "key"], sheet].concat());
        let exit = if sheet.is_empty() { "exit -2" } else { "exit 130" };
        assert!(said.contains("answered 1 early False") && said.contains(exit), "{said}");
        assert!(!has_repository(&place) && !place.path("sheet").exists() && !place.path("key").exists());
    }
}

#[test]
fn a_running_drive_leaves_no_core_keeps_its_keys_from_swap_and_is_closed_to_others() {
    let place = Driven::new("repository").unwrap();
    std::fs::write(place.source().join("letter"), "dear all").unwrap();
    place.save().unwrap();
    let drive = place.mount("drive", &[]).unwrap();
    let of_process = |name: &str| format!("/proc/{}/{name}", drive.process());
    let limits = std::fs::read_to_string(of_process("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let status = std::fs::read_to_string(of_process("status")).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert_ne!(locked.trim(), "0 kB");
    // What belongs to a process that may not be looked into belongs to root there.
    assert_eq!(std::fs::metadata(of_process("environ")).unwrap().uid(), 0);
}

/// Whoever runs the test if that is not root, who may look into everything and lock as much memory as there is.
const SOMEBODY: &str = "65534";

/// The program as it runs for somebody who is not root, behind other programs.
fn as_somebody(place: &Driven, before: &[&str], arguments: &[&str]) -> Output {
    std::fs::set_permissions(place.path("."), PermissionsExt::from_mode(0o777)).unwrap();
    let program = place.path("program");
    std::fs::copy(place.command(&[]).get_program(), &program).unwrap();
    let mut command = Command::new("env");
    if rustix::process::geteuid().is_root() {
        command.args(["setpriv", "--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]);
    }
    command.args(before).arg(&program).args(arguments);
    command.env_clear().env("HOME", place.path(".")).env("PATH", "/usr/bin:/bin").current_dir(place.path("."));
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn other_programs_of_the_same_user_cannot_look_into_it() {
    let place = Driven::new("repository").unwrap();
    std::fs::create_dir(place.path("repository")).unwrap();
    // The command asks who owns the memory of the program that has started it.
    let asks = "stat -c 'owner %u' /proc/$PPID/mem /proc/$$/mem >&2; exit 1";
    let output = as_somebody(&place, &[], &["--repository", "repository", "--password-command", asks, "snapshots"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let me = rustix::process::geteuid();
    let me = if me.is_root() { SOMEBODY.to_owned() } else { me.as_raw().to_string() };
    assert!(said.starts_with(&format!("owner 0\nowner {me}\n")), "{said}");
}

#[test]
fn where_no_memory_may_be_locked_everything_works() {
    let place = Driven::new("repository").unwrap();
    for arguments in [&["init", "--new-key-file", "key", "--accept-loss"][..], &["--key-file", "key", "snapshots"]] {
        let arguments = [&["--repository", "new"], arguments].concat();
        let output = as_somebody(&place, &["prlimit", "--memlock=0:0"], &arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What each role is refused, by every command that reads, and that it is told as a wrong key.
#[test]
fn a_device_gets_what_its_role_needs_and_is_revoked_by_name() {
    let place = place();
    std::fs::create_dir(place.path("files")).unwrap();
    std::fs::write(place.path("files/letter"), "dear").unwrap();
    let owner = ["--key-file", "key"];
    for (name, role) in [("laptop", "writer"), ("anna", "reader"), ("server", "maintainer")] {
        let file = format!("{name}.key");
        place.run(&[&owner[..], &["key", "enrol", name, "--role", role, "--new-key-file", &file]].concat()).unwrap();
        assert_eq!(place.path(&file).metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(named(&place, name)["role"], role);
    }
    fails(
        &place,
        &[&owner[..], &["key", "enrol", "laptop", "--role", "reader", "--new-key-file", "x"]].concat(),
        2,
        "a key 'laptop' already",
    );
    fails(&place, &["--key-file", "anna.key", "key", "enrol", "x", "--role", "reader", "--new-key-file", "x"], 4, "only the owner");
    fails(&place, &["--key-file", "server.key", "key", "remove", "anna"], 4, "only the owner");
    assert!(!place.path("x").exists());

    let with = |name: &str, arguments: &[&str]| {
        let file = format!("{name}.key");
        output(&place, &[&["--key-file", &file][..], arguments].concat())
    };
    let (exit, said) = with("laptop", &["backup", "files"]);
    assert_eq!(exit, Some(0), "{said}");
    std::fs::write(place.path("files/letter"), "dear all").unwrap();
    let (exit, said) = with("laptop", &["backup", "files", "--json"]);
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((exit, &report["parent"].is_string()), (Some(0), &true), "{said}");
    let letter = format!("latest:{}", place.path("files/letter").display());
    let contents: [&[&str]; 4] =
        [&["cat", &letter], &["restore", "latest", "--to", "out"], &["export", "latest"], &["check", "--restore-drill"]];
    let names: [&[&str]; 4] = [&["snapshots"], &["ls", "latest"], &["report", "latest"], &["check", "--read-data"]];
    for (arguments, opens) in
        contents.iter().map(|a| (a, ["anna"].as_slice())).chain(names.iter().map(|a| (a, ["anna", "server"].as_slice())))
    {
        for name in ["laptop", "anna", "server"] {
            let (exit, said) = with(name, arguments);
            let expected = if opens.contains(&name) { 0 } else { 4 };
            assert_eq!(exit, Some(expected), "{name} {arguments:?}: {said}");
            assert!(expected == 0 || said.contains("belongs to a"), "{said}");
        }
    }
    assert_eq!(with("server", &["prune"]).0, Some(0));
    assert_eq!(with("laptop", &["forget", "latest"]).0, Some(4));
    assert_ne!(with("laptop", &["prune"]).0, Some(0));
    assert_ne!(with("server", &["backup", "files"]).0, Some(0));

    // A thief may have kept what is in the key file: the slot is not all that goes.
    let (exit, said) = output(&place, &[&owner[..], &["key", "remove", "laptop"]].concat());
    assert!(exit == Some(0) && said.contains("revoked writer 'laptop'"), "{said}");
    assert_eq!(with("laptop", &["backup", "files"]).0, Some(4));
    let (exit, said) = output(&place, &[&owner[..], &["snapshots"]].concat());
    assert!(exit == Some(0) && said.lines().filter(|line| line.contains(" 1 files ")).count() == 2, "{said}");
    for name in ["anna", "server"] {
        place.run(&[&owner[..], &["key", "remove", name]].concat()).unwrap();
    }
    fails(&place, &[&owner[..], &["key", "remove", "key file"]].concat(), 1, "the last key of an owner");
}

/// All that is left is the address and the words.
#[test]
fn an_empty_machine_restores_with_the_words_alone() {
    let place = Driven::new("repository").unwrap();
    place.run(&["init", "--new-key-file", "key", "--sheet", "sheet.txt"]).unwrap();
    let files = place.path("files");
    std::fs::create_dir_all(files.join("sub/deep")).unwrap();
    for n in 0..50u64 {
        std::fs::write(files.join(format!("sub/deep/file {n}")), tests::noise(n, 4000 * n as usize)).unwrap();
    }
    std::os::unix::fs::symlink("sub/deep", files.join("link")).unwrap();
    std::fs::set_permissions(files.join("sub"), PermissionsExt::from_mode(0o750)).unwrap();
    place.run(&["--key-file", "key", "backup", "files"]).unwrap();

    let root = place.path("root");
    for folder in ["repository", "out", "proc"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let program = tests::program();
    std::fs::copy(&program, root.join("yesterdrive")).unwrap();
    let linked = Command::new("ldd").arg(&program).output().unwrap();
    for library in String::from_utf8(linked.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        std::fs::create_dir_all(root.join(&library[1..]).parent().unwrap()).unwrap();
        std::fs::copy(library, root.join(&library[1..])).unwrap();
    }
    std::fs::copy(place.path("sheet.txt"), root.join("sheet.txt")).unwrap();
    copy_all(&place.path("repository"), &root.join("repository"));
    // Nothing else is in there: no home, no shell, no settings.
    let mut inside = Command::new("/usr/bin/unshare");
    // Who is not root becomes it in a name space of his own.
    inside.args(["--map-root-user", "/usr/sbin/chroot"]).arg(&root).args([
        "/yesterdrive",
        "--repository",
        "/repository",
        "--recovery-file",
        "/sheet.txt",
        "restore",
        "latest",
        "--to",
        "/out",
    ]);
    let done = inside.env_clear().output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let restored = root.join("out").join(files.strip_prefix("/").unwrap());
    let restored = if restored.exists() { restored } else { root.join("out/files") };
    assert_eq!(tests::look(&restored).unwrap(), tests::look(&files).unwrap());
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_all(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}
