//! Flags of `check` and `scrub`.

use backup_writer::check::ReadData;

use super::{Nice, size};

/// Days of a cycle unless somebody says otherwise.
const CYCLE_DAYS: u64 = 30;
/// Files of a drill unless somebody says otherwise.
const DRILL_FILES: u64 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Read data too: all; the n-th of m parts; or what is due today so that daily runs read everything within 30 days, or so many
    #[arg(long, value_name = "all|N/M|cycle[:30d]", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = read_data)]
    pub(crate) read_data: Option<ReadData>,
    /// The same as `--read-data=N/M`
    #[arg(long, value_name = "N/M", value_parser = subset, conflicts_with = "read_data")]
    pub(crate) read_data_subset: Option<ReadData>,
    /// Read at most so many bytes of data in this run; what waits longest comes first, the next run goes on
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_download: Option<u64>,
    /// A snapshot that was there, by the beginning of its id, from a report: if the store does not show it and nobody forgot it, it shows an older state
    #[arg(long, value_name = "SNAPSHOT", value_parser = snapshot_id)]
    pub(crate) expect: Vec<String>,
    /// Read random files of all snapshots as a drive does and compare them with what was saved: so many files, or bytes with k, M or G (default: 100 files, at most 1G)
    #[arg(long, value_name = "FILES|SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = drill)]
    pub(crate) restore_drill: Option<Drill>,
    /// Drill the files that this number draws, whatever was drilled before: to repeat a drill
    #[arg(long, value_name = "NUMBER", requires = "restore_drill")]
    pub(crate) seed: Option<u64>,
}

/// How much is drilled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Drill {
    pub(crate) file_max: u64,
    pub(crate) byte_max: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Scrub {
    /// A folder with the objects of a repository, or the address of a store (default: the repository)
    #[arg(value_name = "FOLDER|ADDRESS")]
    pub(crate) place: Option<String>,
    /// Let others go first (auto: without a terminal)
    #[arg(long, value_enum, default_value_t, value_name = "auto|yes|no")]
    pub(crate) nice: Nice,
}

/// Fewer digits would be found by chance.
fn snapshot_id(text: &str) -> Result<String, String> {
    let is_id = (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { Ok(text.to_ascii_lowercase()) } else { Err("give at least the first 8 digits of its id".into()) }
}

fn read_data(text: &str) -> Result<ReadData, String> {
    let days = |text: &str| text.strip_suffix('d').and_then(|days| days.parse().ok()).filter(|days| (1..=3650).contains(days));
    match text.split_once(':') {
        None if text == "all" => Ok(ReadData::All),
        None if text == "cycle" => Ok(ReadData::Cycle { days: CYCLE_DAYS }),
        Some(("cycle", length)) => days(length)
            .map(|days| ReadData::Cycle { days })
            .ok_or_else(|| "say in how many days everything is to be read: cycle:30d".into()),
        _ => subset(text).map_err(|_| "say all, a part such as 1/30, or cycle:30d".into()),
    }
}

fn subset(text: &str) -> Result<ReadData, String> {
    let parts = text.split_once('/').map(|(n, m)| (n.parse::<u64>(), m.parse::<u64>()));
    match parts {
        Some((Ok(n), Ok(m))) if 1 <= n && n <= m => Ok(ReadData::Part { n, m }),
        _ => Err("give two numbers, the first not larger than the second: 1/30".into()),
    }
}

fn drill(text: &str) -> Result<Drill, String> {
    const BYTES: u64 = 1 << 30;
    if text.is_empty() {
        return Ok(Drill { file_max: DRILL_FILES, byte_max: BYTES });
    }
    let drill = match text.parse() {
        Ok(file_max) => Drill { file_max, byte_max: u64::MAX },
        Err(_) => {
            Drill { file_max: u64::MAX, byte_max: size(text).map_err(|_| "give a number of files, or bytes with k, M or G: 200, 5G")? }
        }
    };
    if drill.file_max == 0 || drill.byte_max == 0 { Err("a drill of nothing proves nothing".into()) } else { Ok(drill) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_is_read() {
        for (text, expected) in [
            ("all", ReadData::All),
            ("3/30", ReadData::Part { n: 3, m: 30 }),
            ("cycle", ReadData::Cycle { days: 30 }),
            ("cycle:7d", ReadData::Cycle { days: 7 }),
        ] {
            assert_eq!(read_data(text), Ok(expected));
        }
        for bad in ["", "some", "0/3", "4/3", "x/3", "3", "1/2/3", "-1/3", "cycle:", "cycle:0d", "cycle:7", "cycle:9999d", "cycles"] {
            assert!(read_data(bad).is_err(), "{bad}");
        }
        assert_eq!(subset("3/30"), Ok(ReadData::Part { n: 3, m: 30 }));
        assert!(subset("all").is_err());
    }

    #[test]
    fn how_much_is_drilled() {
        assert_eq!(drill(""), Ok(Drill { file_max: 100, byte_max: 1 << 30 }));
        assert_eq!(drill("7"), Ok(Drill { file_max: 7, byte_max: u64::MAX }));
        assert_eq!(drill("5M"), Ok(Drill { file_max: u64::MAX, byte_max: 5 << 20 }));
        for bad in ["0", "x", "-1", "0M"] {
            assert!(drill(bad).is_err(), "{bad}");
        }
    }
}
