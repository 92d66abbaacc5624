//! Requests as the driver puts them together, and their answers.

use winfsp_sys::{FSP_FSCTL_TRANSACT_BUF, FSP_FSCTL_TRANSACT_REQ, FSP_FSCTL_TRANSACT_RSP};

use super::driver::{Volume, hint};

const HEAD: usize = size_of::<FSP_FSCTL_TRANSACT_REQ>();

/// A request that is being put together.
pub struct Request(Vec<u64>);

impl Request {
    /// Of a kind (`FspFsctlTransact…Kind`), with the path that it is about.
    pub fn new(kind: i32, path: Option<&[u16]>) -> Self {
        let mut request = Self(vec![0; 4096]);
        let head = request.head();
        (head.Kind, head.Hint, head.Size) = (kind as u32, hint(), HEAD as u16);
        if let Some(path) = path {
            let name = request.text(path);
            request.head().FileName = name;
        }
        request
    }

    pub fn head(&mut self) -> &mut FSP_FSCTL_TRANSACT_REQ {
        // SAFETY: the buffer is larger than the structure, aligned to eight bytes, and any bytes are a request.
        unsafe { &mut *self.0.as_mut_ptr().cast::<FSP_FSCTL_TRANSACT_REQ>() }
    }

    /// Adds a text; zero is put behind it.
    pub fn text(&mut self, text: &[u16]) -> FSP_FSCTL_TRANSACT_BUF {
        let bytes: Vec<u8> = text.iter().chain(&[0]).flat_map(|unit| unit.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> FSP_FSCTL_TRANSACT_BUF {
        let at = usize::from(self.head().Size);
        for (n, byte) in bytes.iter().enumerate() {
            self.0[(at + n) / 8] |= u64::from(*byte) << (8 * ((at + n) % 8));
        }
        self.head().Size = (at + bytes.len()).next_multiple_of(8) as u16;
        FSP_FSCTL_TRANSACT_BUF { Offset: (at - HEAD) as u16, Size: bytes.len() as u16 }
    }

    /// Hands it to the library; its number.
    pub fn send(mut self, volume: &Volume) -> u64 {
        let hint = self.head().Hint;
        volume.send(self.0);
        hint
    }

    /// Hands it to the library and waits for the answer.
    pub fn ask(self, volume: &Volume) -> Response {
        let hint = self.send(volume);
        Response(volume.answer(hint))
    }
}

/// An answer.
pub struct Response(pub Vec<u8>);

impl Response {
    pub fn body(&self) -> &FSP_FSCTL_TRANSACT_RSP {
        assert!(self.0.len() >= size_of::<FSP_FSCTL_TRANSACT_RSP>());
        assert_eq!(self.0.as_ptr() as usize % 8, 0);
        // SAFETY: long enough and aligned, and any bytes are an answer.
        unsafe { &*self.0.as_ptr().cast::<FSP_FSCTL_TRANSACT_RSP>() }
    }

    pub fn status(&self) -> u32 {
        self.body().IoStatus.Status
    }

    pub fn information(&self) -> u32 {
        self.body().IoStatus.Information
    }

    pub fn buffer(&self, buffer: FSP_FSCTL_TRANSACT_BUF) -> &[u8] {
        let at = size_of::<FSP_FSCTL_TRANSACT_RSP>() + usize::from(buffer.Offset);
        &self.0[at..at + usize::from(buffer.Size)]
    }

    pub fn text(&self, buffer: FSP_FSCTL_TRANSACT_BUF) -> Vec<u16> {
        let units = self.buffer(buffer).as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        units.take_while(|unit| *unit != 0).collect()
    }
}
