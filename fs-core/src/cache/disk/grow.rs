//! The segments that grow: one for what may leave, one for what is pinned.

use std::fs;
use std::io;

use super::name::{Name, Stage};
use super::room::{ENTRY_COUNT_MAX, SEGMENT_ENTRY_COUNT_MAX};
use super::segment::{Active, EMPTY_LENGTH, Entry};
use super::shelf::PIN_COUNT_MAX;
use super::{DiskCache, lock, own_folder};
use crate::crypto::{self, SystemRandom};

/// After a failure so many puts go by before the next attempt.
pub(super) const PAUSE_AFTER_FAILURE: u32 = 1000;
/// The same where there was no room, which is nobody's fault.
pub(super) const PAUSE_WITHOUT_ROOM: u32 = 100;

#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) loose: Slot,
    pub(super) pinned: Slot,
    pub(super) has_warned: bool,
}

/// A segment that grows, or none.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) active: Option<(u32, Active, u64)>,
    /// Puts that go by before the next attempt.
    pub(super) pause: u32,
    /// Whether a file with what had been put could not be finished.
    pub(super) has_lost: bool,
}

impl Writer {
    pub(super) fn slot(&mut self, pin: Option<u64>) -> &mut Slot {
        if pin.is_some() { &mut self.pinned } else { &mut self.loose }
    }
}

impl DiskCache {
    /// Writes an entry into the segment that grows, or into a new one; `false` if there is no room.
    pub(super) fn append(&self, writer: &mut Writer, pin: Option<u64>, entry: &Entry) -> io::Result<bool> {
        let cost = entry.extent.cost();
        let fits = |slot: &Slot| slot.active.as_ref().is_some_and(|active| active_fits(active, pin, cost));
        if !fits(writer.slot(pin)) && !self.roll(writer, pin, cost)? {
            return Ok(false);
        }
        self.write(writer.slot(pin), entry)?;
        Ok(true)
    }

    fn write(&self, slot: &mut Slot, entry: &Entry) -> io::Result<()> {
        let Some((number, active, _)) = &mut slot.active else { return Ok(()) };
        let row = active.append(entry)?;
        lock(&self.shelf).add(*number, &row, active.length());
        Ok(())
    }

    /// Ends the segment that grows and begins one with room for an entry of this cost; `false` if there is no room on the disk.
    fn roll(&self, writer: &mut Writer, pin: Option<u64>, cost: u64) -> io::Result<bool> {
        self.close(writer.slot(pin));
        own_folder(&self.folder)?;
        self.survey()?;
        let claim = self.segment_size.max(EMPTY_LENGTH + cost);
        if pin.is_some_and(|pin| !self.may_pin(pin)) {
            return Ok(false);
        }
        let mut rescued = self.make_room(claim);
        if rescued.is_none() && pin.is_some() {
            // What is pinned goes before what is not, even before what was just written.
            self.close(&mut writer.loose);
            rescued = self.make_room(claim);
        }
        let Some(rescued) = rescued else { return Ok(false) };
        let active = match self.resume(pin, claim - cost) {
            Some(active) => active,
            None => Active::create(&self.folder, self.new_name(pin))?,
        };
        let number = lock(&self.shelf).begin(active.name, active.file.clone(), active.length(), claim);
        writer.slot(pin).active = Some((number, active, claim));
        for entry in rescued.iter().filter(|_| pin.is_none()) {
            let with_both = cost + entry.extent.cost();
            if writer.loose.active.as_ref().is_some_and(|active| active_fits(active, None, with_both)) {
                self.write(&mut writer.loose, entry)?;
            }
        }
        Ok(true)
    }

    fn may_pin(&self, pin: u64) -> bool {
        let shelf = lock(&self.shelf);
        let (count, is_known) = shelf.pins(pin);
        let (_, pinned) = shelf.entry_counts();
        (is_known || count < PIN_COUNT_MAX) && pinned + SEGMENT_ENTRY_COUNT_MAX <= ENTRY_COUNT_MAX / 2
    }

    /// The newest segment, if it is short: runs that write little do not leave a file each.
    fn resume(&self, pin: Option<u64>, length_max: u64) -> Option<Active> {
        let (name, number, length) = lock(&self.shelf).finished(pin).last().copied()?;
        if length > length_max.min(self.segment_size / 2) {
            return None;
        }
        let active = Active::resume(&self.folder, name).ok()?;
        if active.rows().len() > SEGMENT_ENTRY_COUNT_MAX / 2 {
            // Many tiny entries. It goes on as it was.
            if active.finish(&self.folder).is_err() {
                lock(&self.shelf).remove_segment(number);
            }
            return None;
        }
        Some(active)
    }

    fn new_name(&self, pin: Option<u64>) -> Name {
        let newest = lock(&self.shelf).names().into_iter().map(|(name, ..)| name.order).max();
        let random = u64::from_le_bytes(crypto::random_array(&SystemRandom));
        Name { order: newest.map_or(0, |order| order.saturating_add(1)), random, pin }
    }

    /// Ends the segment that grows. If that fails, what it holds is lost, to this process and to others.
    pub(super) fn close(&self, slot: &mut Slot) {
        let Some((number, active, _)) = slot.active.take() else { return };
        let (name, length) = (active.name, active.length());
        let result = active.finish(&self.folder);
        let mut shelf = lock(&self.shelf);
        shelf.end(number, length);
        if result.is_err() {
            slot.has_lost = true;
            shelf.remove_segment(number);
            let _ = fs::remove_file(name.path(&self.folder, Stage::Open));
        }
    }

    /// After a failure: the cache answers what it can and keeps nothing new for a while.
    pub(super) fn rest(&self, writer: &mut Writer, pin: Option<u64>, error: &io::Error) {
        if !writer.has_warned {
            writer.has_warned = true;
            tracing::warn!(folder = %self.folder.display(), %error, "the disk cache cannot be written; reading goes on without it");
        }
        self.close(writer.slot(pin));
        writer.slot(pin).pause = PAUSE_AFTER_FAILURE;
    }
}

fn active_fits((_, active, claim): &(u32, Active, u64), pin: Option<u64>, cost: u64) -> bool {
    active.name.pin == pin && active.length() + cost <= *claim && active.rows().len() < SEGMENT_ENTRY_COUNT_MAX
}
