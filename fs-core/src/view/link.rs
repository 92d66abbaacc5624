//! Targets of symbolic links, rewritten so that following one stays in the snapshot. Pure, and by the names alone: what is a link on the way is not known
//! here, so this is a convenience and no fence.

/// The target of a link in a directory `depth` below the snapshot's root: relative if it was absolute, without any `..` that would lead above the root.
/// One that stays inside is as it was saved.
pub fn inside(target: &[u8], depth: usize) -> Vec<u8> {
    let is_absolute = target.starts_with(b"/");
    let (mut level, mut parts) = if is_absolute { (0, vec![&b".."[..]; depth]) } else { (depth, Vec::new()) };
    let mut is_changed = is_absolute;
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" => continue,
            b".." if level == 0 => {
                is_changed = true;
                continue;
            }
            b".." => level -= 1,
            b"." => {}
            _ => level += 1,
        }
        parts.push(part);
    }
    if !is_changed {
        return target.to_vec();
    }
    if parts.is_empty() {
        parts.push(b".");
    }
    if target.ends_with(b"/") {
        // It says that there must be a directory.
        parts.push(b"");
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_inside() {
        for (target, depth, shown) in [
            ("/etc/x", 2, "../../etc/x"),
            ("/etc/x", 0, "etc/x"),
            ("/", 0, "./"),
            ("/", 3, "../../../"),
            ("//etc//x/", 1, "../etc/x/"),
            ("/../../etc/./x", 1, "../etc/./x"),
            ("../../../../etc", 2, "../../etc"),
            ("a/../../../b", 1, "a/../../b"),
            ("..", 0, "."),
            ("..//etc", 0, "etc"),
            ("../..", 2, "../.."),
            ("a//b/../c/", 0, "a//b/../c/"),
            ("x", 0, "x"),
            ("", 0, ""),
        ] {
            assert_eq!(String::from_utf8(inside(target.as_bytes(), depth)).unwrap(), shown, "{target} at {depth}");
        }
    }
}
