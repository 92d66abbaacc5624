//! Which ranges of which packs to ask for, so that many records come with few requests. Pure.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::opened::Want;
use crate::id::PackId;
use crate::object::ObjectKind;
use crate::pack::pack_kind;

/// Records from this size on come alone from stores that answer at once.
const ALONE: u64 = 128 << 10;
/// Smallest and largest gap that is read through and thrown away.
const GAP: Range<u64> = 16 << 10..1 << 20;
/// Answers up to this size say how long a request takes, larger ones how fast bytes come.
const SMALL: u64 = 64 << 10;

/// One request to come: a range of a pack and the records in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: ObjectKind,
    pub(super) pack: PackId,
    pub(super) range: Range<u64>,
    pub(super) wants: VecDeque<Want>,
}

impl Part {
    /// The range of the pack that holds what is wanted; `None` if nothing is.
    pub(super) fn core(&self) -> Option<Range<u64>> {
        let start = self.wants.iter().map(|want| want.reference.place().start).min()?;
        let end = self.wants.iter().map(|want| want.reference.place().end).max()?;
        Some(start..end)
    }

    /// Takes out what exceeds `size` bytes of plaintext, if anything does.
    pub(super) fn split_off(&mut self, size: u64) -> Option<VecDeque<Want>> {
        let mut sum = 0;
        let exceeds = |want: &Want| {
            sum += u64::from(want.reference.plain_len);
            sum > size
        };
        let at = self.wants.iter().position(exceeds)?.max(1);
        (at < self.wants.len()).then(|| self.wants.split_off(at))
    }
}

/// How requests are put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanLimits {
    /// Reading so many bytes in vain is cheaper than another request.
    pub(super) gap: u64,
    /// A request for several records takes at most so many bytes.
    pub(super) part_max: u64,
    /// Records from this size on come alone: where requests cost nothing, each is then opened where it lies.
    pub(super) alone: u64,
}

/// Puts neighbours into one request.
pub(super) fn plan(mut wants: Vec<Want>, limits: PlanLimits) -> Vec<Part> {
    wants.sort_by_key(|want| (pack_kind(want.kind), want.reference.pack, want.reference.offset));
    let mut parts: Vec<Part> = Vec::new();
    for want in wants {
        let (kind, pack) = (pack_kind(want.kind), want.reference.pack);
        let Range { start, end } = want.reference.place();
        match parts.last_mut() {
            Some(part)
                if part.kind == kind
                    && part.pack == pack
                    && end - start < limits.alone
                    && part.wants.back().is_some_and(|last| u64::from(last.reference.stored_len) < limits.alone)
                    && start <= part.range.end + limits.gap
                    && end.max(part.range.end) - part.range.start <= limits.part_max =>
            {
                part.range.end = part.range.end.max(end);
                part.wants.push_back(want);
            }
            _ => parts.push(Part { kind, pack, range: start..end, wants: [want].into() }),
        }
    }
    parts
}

/// What the line to the store is like, learned from its answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Line {
    /// Time of a request that brings little.
    latency: Option<Duration>,
    /// Bytes per second of one that brings much.
    bandwidth: Option<f64>,
}

impl Line {
    /// Notes an answer.
    pub(super) fn note(&mut self, length: u64, took: Duration) {
        let smooth = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old * 0.8 + new * 0.2));
        if length <= SMALL {
            self.latency = smooth(self.latency.map(|latency| latency.as_secs_f64()), took.as_secs_f64()).map(Duration::from_secs_f64);
        } else {
            let flowing = took.saturating_sub(self.latency.unwrap_or_default()).max(Duration::from_micros(50));
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let rate = length as f64 / flowing.as_secs_f64();
            self.bandwidth = smooth(self.bandwidth, rate);
        }
    }

    /// How requests are put together on this line.
    pub(super) fn limits(&self, part_max: u64) -> PlanLimits {
        let answers_at_once = self.latency.is_none() && self.bandwidth.is_none();
        PlanLimits { gap: self.gap(), part_max, alone: if answers_at_once { ALONE } else { u64::MAX } }
    }

    /// The bytes that would come in the time of one more request.
    fn gap(&self) -> u64 {
        let bytes = self.latency.unwrap_or_default().as_secs_f64() * self.bandwidth.unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what is sensible; an estimate")]
        let bytes = bytes as u64;
        bytes.clamp(GAP.start, GAP.end)
    }

    /// Bytes per second, if known.
    pub(super) fn bandwidth(&self) -> Option<f64> {
        self.bandwidth
    }

    /// Time of a small request, if known.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Codec;
    use crate::id::RecordId;
    use crate::record::{RecordKind, Reference, SessionKeyRef};

    fn want(kind: RecordKind, pack: u8, offset: u32, stored_len: u32) -> Want {
        let session = SessionKeyRef { epoch: 1, enc: [0; 32] };
        let (id, pack) = (RecordId::from_bytes([pack; 32]), PackId::from_bytes([pack; 16]));
        Want { kind, reference: Reference { id, plain_len: stored_len, stored_len, offset, codec: Codec::Raw, pack, session } }
    }

    #[test]
    fn neighbours_come_together_and_others_do_not() {
        let limits = PlanLimits { gap: 100, part_max: 1000, alone: u64::MAX };
        let wants = vec![
            want(RecordKind::Data, 2, 0, 10),
            want(RecordKind::Data, 1, 500, 100),
            want(RecordKind::Data, 1, 0, 300),
            want(RecordKind::Data, 1, 400, 100),
            want(RecordKind::Data, 1, 900, 200),
            want(RecordKind::Tree, 1, 600, 10),
        ];
        let ranges: Vec<_> = plan(wants, limits).into_iter().map(|part| (part.range, part.wants.len())).collect();
        let mut expected = vec![(0..600, 3), (900..1100, 1), (0..10, 1), (600..610, 1)];
        expected.sort_by_key(|(range, _)| (range.start, range.end));
        let mut sorted = ranges;
        sorted.sort_by_key(|(range, _)| (range.start, range.end));
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_record_larger_than_a_part_is_still_one_request() {
        let parts = plan(vec![want(RecordKind::Data, 1, 0, 5000)], PlanLimits { gap: 100, part_max: 1000, alone: u64::MAX });
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].range, 0..5000);
    }

    #[test]
    fn the_gap_follows_the_line() {
        let mut line = Line::default();
        assert_eq!(line.gap(), GAP.start, "nothing is known");
        for _ in 0..50 {
            line.note(1000, Duration::from_millis(20));
            line.note(1 << 20, Duration::from_millis(20 + 84));
        }
        assert!((200_000..300_000).contains(&line.gap()), "20 ms at 100 Mbit/s: {}", line.gap());
        line.note(64 << 20, Duration::from_micros(60));
        assert!(line.gap() <= GAP.end);
    }
}
