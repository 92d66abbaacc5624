//! What a mount asks its memory for, as sequences of records: each says how often a given policy has the record that is wanted.

/// One demand of a reader.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    /// Which record.
    pub(crate) record: u64,
    /// Bytes that it takes in memory.
    pub(crate) weight: usize,
    /// Whether it is counted: what streams through once cannot be had from memory by anyone.
    pub(crate) is_counted: bool,
}

/// A cache as the traces see it.
pub(crate) trait Policy {
    /// Whether the record is there; counts as a use.
    fn get(&mut self, record: u64) -> bool;
    /// Keeps it.
    fn insert(&mut self, record: u64, weight: usize);
}

/// Memory in all traces.
pub(crate) const BUDGET: usize = 64 << 20;
const MEBI: usize = 1 << 20;

/// A trace by its name.
pub(crate) type Trace = (&'static str, fn(&mut Runner<'_>));

/// All traces.
pub(crate) const TRACES: [Trace; 8] = [
    ("hot 40 MiB, one cat streams", hot_and_scan),
    ("tree pages 16 MiB, data streams", pages_and_stream),
    ("4 streams, prefetch 3 MiB each", prefetch),
    ("same, with hot 40 MiB", prefetch_and_hot),
    ("loop of 80 MiB", looping),
    ("zipf over 1 GiB", zipf),
    ("hot 40 MiB, moves on", moving),
    ("find over all, hot 32 MiB", walk_and_hot),
];

/// Plays a trace and counts.
pub(crate) struct Runner<'a> {
    policy: &'a mut dyn Policy,
    dice: u64,
    hits: u64,
    wanted: u64,
}

/// Share of the counted demands that the policy had, in percent.
pub(crate) fn play(policy: &mut dyn Policy, trace: fn(&mut Runner<'_>)) -> f64 {
    let mut runner = Runner { policy, dice: 7, hits: 0, wanted: 0 };
    trace(&mut runner);
    runner.hits as f64 * 100.0 / runner.wanted as f64
}

impl Runner<'_> {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    /// The kernel reads 128 KiB at a time, so a large record is asked for several times in a row.
    fn read(&mut self, Demand { record, weight, is_counted }: Demand) {
        let found = self.policy.get(record);
        if !found {
            self.policy.insert(record, weight);
        }
        for _ in 1..weight.div_ceil(128 << 10) {
            self.policy.get(record);
        }
        self.wanted += u64::from(is_counted);
        self.hits += u64::from(is_counted && found);
    }

    fn data(&mut self, record: u64, is_counted: bool) {
        // 64 KiB to 1 MiB, the same for the same record.
        let weight = 65_536 + (record.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as usize % 400_000;
        self.read(Demand { record, weight, is_counted });
    }

    fn page(&mut self, record: u64, is_counted: bool) {
        self.read(Demand { record: 1 << 40 | record, weight: 160 << 10, is_counted });
    }

    fn hot(&mut self, mebibytes: usize, shift: u64) {
        let record = self.roll((mebibytes * MEBI / 265_536) as u64);
        self.data(1 << 41 | (shift + record), true);
    }
}

fn hot_and_scan(runner: &mut Runner<'_>) {
    for n in 0..20_000 {
        runner.data(n, false);
        if n % 2 == 0 {
            runner.hot(40, 0);
        }
    }
}

fn pages_and_stream(runner: &mut Runner<'_>) {
    for n in 0..20_000 {
        runner.data(n, false);
        if n % 4 == 0 {
            let page = runner.roll(100);
            runner.page(page, true);
        }
    }
}

/// Four readers, each with twelve records fetched ahead: they must still be there when they are read.
fn ahead(runner: &mut Runner<'_>, hot: bool) {
    const AHEAD: u64 = 12;
    for n in 0..5000 {
        for stream in 1..5 {
            let ahead = stream << 32 | (n + AHEAD);
            if !runner.policy.get(ahead) {
                runner.policy.insert(ahead, 256 << 10);
            }
            if n >= AHEAD {
                runner.read(Demand { record: stream << 32 | n, weight: 256 << 10, is_counted: !hot });
            }
        }
        if hot {
            runner.hot(40, 0);
            runner.hot(40, 0);
        }
    }
}

fn prefetch(runner: &mut Runner<'_>) {
    ahead(runner, false);
}

fn prefetch_and_hot(runner: &mut Runner<'_>) {
    ahead(runner, true);
}

fn looping(runner: &mut Runner<'_>) {
    let count = (80 * MEBI / 265_536) as u64;
    for n in 0..count * 40 {
        runner.data(n % count, n >= count);
    }
}

fn zipf(runner: &mut Runner<'_>) {
    let count = 4096.0_f64;
    for _ in 0..60_000 {
        // Inverse of the integral of x^-0.9.
        let share = runner.roll(1 << 30) as f64 / (1_u64 << 30) as f64;
        let record = (1.0 + share * (count.powf(0.1) - 1.0)).powf(10.0) as u64;
        runner.data(record, true);
    }
}

fn moving(runner: &mut Runner<'_>) {
    for n in 0..30_000 {
        runner.hot(40, n / 1500 * 1000);
    }
}

fn walk_and_hot(runner: &mut Runner<'_>) {
    for n in 0..30_000 {
        runner.page(n, false);
        // Its directory's page again for each of some files in it.
        runner.page(n, false);
        if n % 3 == 0 {
            runner.hot(32, 0);
        }
    }
}
