//! Names that Windows asks for in every folder although hardly any has them. Pure.
//!
//! The shell looks for settings and pictures of each folder that it shows. A question for a name in whatever case takes an index of the folder, which takes
//! all its pages. For these names the usual spellings are enough: one page at most is fetched, and none where the drive knows the folder.

/// Usual spellings of each name.
const PROBES: [&[&str]; 10] = [
    &["desktop.ini", "Desktop.ini", "DESKTOP.INI"],
    &["autorun.inf", "Autorun.inf", "AutoRun.inf", "AUTORUN.INF"],
    &["Thumbs.db", "thumbs.db", "THUMBS.DB"],
    &["ehthumbs.db", "ehthumbs_vista.db"],
    &["folder.jpg", "Folder.jpg", "FOLDER.JPG"],
    &["folder.gif", "Folder.gif", "FOLDER.GIF"],
    &["folder.ico", "Folder.ico"],
    &["AlbumArtSmall.jpg"],
    &[".DS_Store"],
    &["Icon\r"],
];

/// The spellings under which to look for a name that is asked for everywhere; `None` for every other name.
pub fn spellings(name: &[u8]) -> Option<&'static [&'static str]> {
    PROBES.into_iter().find(|group| group.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_known_in_every_case_and_nothing_else_is() {
        assert_eq!(spellings(b"DeskTop.INI").and_then(|group| group.first()), Some(&"desktop.ini"));
        assert!(spellings(b"thumbs.db").is_some_and(|group| group.contains(&"Thumbs.db")));
        assert_eq!(spellings(b"desktop.in"), None);
        assert_eq!(spellings(b""), None);
    }
}
