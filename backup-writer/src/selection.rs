//! Which entries are restored or exported: patterns as in `.gitignore`, counted from what is restored.

use fs_core::path::{Name, TreePath};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Nothing can be selected by this pattern.
#[derive(Debug, thiserror::Error)]
#[error("'{pattern}' is no pattern: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong.
    pub reason: String,
}

/// The patterns, compiled.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
}

/// What becomes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Selected {
    /// It is restored.
    Yes,
    /// It is left out with all below.
    No,
    /// Something in it may be restored.
    Within,
}

impl Selection {
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, PatternError> {
        Ok(Self { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// What becomes of the entry `name` of the directory at `parent`, which is selected itself or only on the way.
    pub(crate) fn of(&self, parent: &TreePath, name: &Name, is_directory: bool, is_parent_selected: bool) -> Selected {
        if self.include.is_none() && self.exclude.is_none() {
            return Selected::Yes;
        }
        let mut path = parent.to_bytes();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let path = crate::system::pattern_path(&path);
        let path = &*path;
        if self.exclude.as_ref().is_some_and(|exclude| exclude.matched(path, is_directory).is_ignore()) {
            return Selected::No;
        }
        let Some(include) = &self.include else { return Selected::Yes };
        let matched = include.matched(path, is_directory);
        match (matched.is_ignore() || is_parent_selected && !matched.is_whitelist(), is_directory) {
            (true, _) => Selected::Yes,
            (false, true) => Selected::Within,
            (false, false) => Selected::No,
        }
    }

    /// Whether the top of what is restored is selected as a whole.
    pub(crate) fn has_all(&self) -> bool {
        self.include.is_none()
    }
}

fn compile(patterns: &[String]) -> Result<Option<Gitignore>, PatternError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let wrong = |error: ignore::Error| PatternError { pattern: pattern.clone(), reason: error.to_string() };
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    let pattern = patterns.join(", ");
    builder.build().map(Some).map_err(|error| PatternError { pattern, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(include: &[&str], exclude: &[&str], path: &str, is_directory: bool) -> Selected {
        let all = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&all(include), &all(exclude)).unwrap();
        let path = TreePath::parse(path.as_bytes()).unwrap();
        let (mut parent, mut inherits) = (TreePath::ROOT, selection.has_all());
        for name in path.parent().unwrap().names() {
            match selection.of(&parent, name, true, inherits) {
                Selected::No => return Selected::No,
                found => inherits = found == Selected::Yes,
            }
            parent.push(name.clone());
        }
        selection.of(&parent, path.last().unwrap(), is_directory, inherits)
    }

    #[test]
    fn patterns_select_as_in_gitignore() {
        use Selected::{No, Within, Yes};
        for (include, exclude, path, is_directory, expected) in [
            (&[][..], &[][..], "a/b", false, Yes),
            (&[], &["*.tmp"], "a/b.tmp", false, No),
            (&[], &["*.tmp", "!keep.tmp"], "a/keep.tmp", false, Yes),
            (&[], &["/a"], "a/b", false, No),
            (&[], &["/b"], "a/b", false, Yes),
            (&[], &["cache/"], "a/cache", true, No),
            (&[], &["cache/"], "a/cache", false, Yes),
            (&["*.odt"], &[], "a/b.odt", false, Yes),
            (&["*.odt"], &[], "a/b.txt", false, No),
            (&["*.odt"], &[], "a", true, Within),
            (&["/home/anna"], &[], "home/anna/deep/x", false, Yes),
            (&["/home/anna"], &[], "home/bert/x", false, No),
            (&["/home/anna"], &["*.iso"], "home/anna/x.iso", false, No),
            (&["/home/**/letters"], &[], "home/anna/letters/x", false, Yes),
        ] {
            assert_eq!(selected(include, exclude, path, is_directory), expected, "{include:?} {exclude:?} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        assert!(matches!(Selection::new(&["[z-a]".into()], &[]), Err(PatternError { pattern, .. }) if pattern == "[z-a]"));
    }
}
