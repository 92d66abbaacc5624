//! A repository that travels by disk.

use tests::driven::Driven;
use tests::noise;

/// Initialised and filled on a disk, carried, loaded, gone on with; and carried home again.
#[test]
fn a_repository_travels_by_disk() {
    let driven = Driven::new("disk").unwrap();
    std::fs::write(driven.source().join("large"), noise(5, 4_000_000)).unwrap();
    std::fs::write(driven.source().join("letter"), "dear all").unwrap();
    driven.save().unwrap();
    let seed = |line: &[&str]| driven.command(&[&["--json"], line].concat()).output().unwrap();
    let record = |output: &std::process::Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap()
    };
    let imported = seed(&["--repository", "far", "seed", "import", "disk"]);
    assert!(String::from_utf8_lossy(&imported.stderr).contains("go on with '--repository far'"));
    let imported = record(&imported);
    assert_eq!((&imported["type"], &imported["copied"]["count"]), (&"seed_import".into(), &imported["objects"]["count"]));
    std::fs::remove_file(first_pack(&driven.path("far"))).unwrap();
    assert_eq!(record(&seed(&["--repository", "far", "seed", "import", "disk"]))["copied"]["count"], 1, "it goes on where it was");
    // The same repository: what this machine remembers goes on.
    std::fs::write(driven.source().join("new"), noise(6, 50_000)).unwrap();
    let line = ["--key-file", "key", "--json", "--repository", "far", "backup", "source"];
    let next = record(&driven.command(&line).output().unwrap());
    assert_eq!((next["unchanged"].as_u64(), next["sequence"].as_u64()), (Some(2), Some(2)), "{next}");
    assert!(next["sent_bytes"].as_u64().unwrap() < 100_000, "{next}");
    // That the repository has gone on is no reason to worry.
    let again = record(&seed(&["--repository", "far", "seed", "import", "disk"]));
    assert_eq!((&again["copied"]["count"], &again["findings"]), (&0.into(), &0.into()));
    // Home again.
    let exported = record(&seed(&["--repository", "far", "seed", "export", "home/return"]));
    assert_eq!((&exported["type"], &exported["copied"]["count"]), (&"seed_export".into(), &exported["objects"]["count"]));
    let drive = driven.mount("drive", &["--repository", "home/return"]).unwrap();
    assert_eq!(std::fs::read(drive.shown.join("new")).unwrap(), noise(6, 50_000));
    assert_eq!(std::fs::read(drive.shown.join("large")).unwrap(), noise(5, 4_000_000));
    drop(drive);
    // What an earlier run has put onto the disk is read again.
    let pack = first_pack(&driven.path("home/return"));
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[500] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let healed = seed(&["--repository", "far", "seed", "export", "home/return"]);
    assert_eq!(healed.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&healed.stdout).contains("on the disk: it is damaged"), "{healed:?}");
    assert_eq!(record(&seed(&["--repository", "far", "seed", "export", "home/return"]))["findings"], 0);
}

fn first_pack(repository: &std::path::Path) -> std::path::PathBuf {
    let folder = std::fs::read_dir(repository.join("pack")).unwrap().flatten().next().unwrap().path();
    std::fs::read_dir(folder).unwrap().flatten().next().unwrap().path()
}
