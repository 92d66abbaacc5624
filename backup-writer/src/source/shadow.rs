//! Which drives a run reads from shadow copies, and what it says where it cannot. Pure.

/// What a run does about files that are in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Copies of these drives are made.
    Copy(Vec<char>),
    /// Nothing that is read lies on a drive of this machine, or nobody wants copies.
    Nothing,
    /// Who runs this may not make any.
    NotAllowed,
}

/// Decides by the paths that are read, as snapshots show them: `/C/Users`.
pub(super) fn plan(paths: &[Vec<u8>], is_wanted: bool, is_privileged: bool) -> Plan {
    let mut drives: Vec<char> = paths.iter().filter_map(|path| drive(path)).collect();
    drives.sort_unstable();
    drives.dedup();
    match (is_wanted && !drives.is_empty(), is_privileged) {
        (false, _) => Plan::Nothing,
        (true, false) => Plan::NotAllowed,
        (true, true) => Plan::Copy(drives),
    }
}

fn drive(path: &[u8]) -> Option<char> {
    match path {
        [b'/', drive] | [b'/', drive, b'/', ..] if drive.is_ascii_alphabetic() => Some(char::from(drive.to_ascii_uppercase())),
        _ => None,
    }
}

/// What is told where no copy could be made. Most files can be read all the same.
pub(super) fn told(reason: &str) -> String {
    format!("there is no shadow copy: {reason}; files that other programs have open for themselves are left out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_copied_once_each_and_only_where_that_is_possible() {
        let paths = |all: &[&str]| all.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>();
        let of = |all: &[&str], wanted, privileged| plan(&paths(all), wanted, privileged);
        assert_eq!(of(&["/C/Users", "/D", "/c/Windows"], true, true), Plan::Copy(vec!['C', 'D']));
        assert_eq!(of(&["/C/Users"], true, false), Plan::NotAllowed);
        assert_eq!(of(&["/C/Users"], false, true), Plan::Nothing);
        assert_eq!(of(&["/UNC/nas/share", "/Volume{1}/x", "/CD/x", "/"], true, true), Plan::Nothing);
        assert_eq!(of(&[], true, true), Plan::Nothing);
        assert!(told("only an administrator may make one").contains("left out"));
    }
}
