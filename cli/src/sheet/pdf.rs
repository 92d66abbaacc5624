//! One page of PDF: text in the fonts that every reader has, and a QR code of filled squares.
//!
//! Written by hand because it needs so little: five objects, one stream of drawing commands that is not compressed, and a table of where they begin.

use qrcodegen::{QrCode, QrCodeEcc};
use zeroize::Zeroizing;

use super::Sheet;
use crate::error::{Exit, Failure};

/// A4, in points of 1/72 inch.
const PAGE: (f32, f32) = (595.0, 842.0);
const MARGIN: f32 = 56.0;
/// Six and a half centimetres: cameras and flat scanners read it.
const CODE_SIZE: f32 = 184.0;
/// Characters of a line of normal text that fit between the margins.
const LINE_LENGTH: usize = 96;

/// The sheet as a PDF.
pub(super) fn page(sheet: &Sheet) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut page = Page { drawing: Zeroizing::new(Vec::with_capacity(256 << 10)), y: PAGE.1 - MARGIN };
    page.line(Font::Bold, 14.0, Sheet::TITLE);
    page.y -= 8.0;
    for (name, value) in sheet.facts() {
        page.wrapped(&format!("{name}: {value}"));
    }
    page.y -= 14.0;
    for line in sheet.lines() {
        page.line(Font::Typewriter, 8.4, &line);
        page.y -= 6.0;
    }
    page.y -= 8.0;
    for line in Sheet::ABOUT {
        page.wrapped(line);
    }
    page.code(&sheet.words)?;
    for line in sheet.steps() {
        page.wrapped(&line);
    }
    Ok(file(&page.drawing))
}

#[derive(Clone, Copy)]
enum Font {
    Normal,
    Bold,
    Typewriter,
}

impl Font {
    const ALL: [Self; 3] = [Self::Normal, Self::Bold, Self::Typewriter];

    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Helvetica",
            Self::Bold => "Helvetica-Bold",
            Self::Typewriter => "Courier-Bold",
        }
    }
}

struct Page {
    /// Wiped: it holds the words.
    drawing: Zeroizing<Vec<u8>>,
    /// Where the last line stands, from below.
    y: f32,
}

impl Page {
    fn line(&mut self, font: Font, size: f32, text: &str) {
        self.y -= size * 1.3;
        let name = font.name();
        self.drawing.extend_from_slice(format!("BT /{name} {size} Tf {MARGIN} {:.1} Td (", self.y).as_bytes());
        for c in text.chars() {
            // The encoding of the page is the one of western Windows, which is Latin-1 but for a few.
            match u8::try_from(c) {
                Ok(byte @ (b'(' | b')' | b'\\')) => self.drawing.extend_from_slice(&[b'\\', byte]),
                Ok(byte @ (0x20..=0x7e | 0xa1..)) => self.drawing.push(byte),
                _ => self.drawing.push(b'?'),
            }
        }
        self.drawing.extend_from_slice(b") Tj ET\n");
    }

    /// Normal text, in as many lines as it needs: broken at a space, or anywhere in a name that is too long.
    fn wrapped(&mut self, text: &str) {
        let mut rest: Vec<char> = text.chars().collect();
        while rest.len() > LINE_LENGTH {
            let space = rest.iter().take(LINE_LENGTH).rposition(|&c| c == ' ').filter(|&at| at > LINE_LENGTH / 2);
            let tail = rest.split_off(space.map_or(LINE_LENGTH, |at| at + 1));
            self.line(Font::Normal, 9.5, &rest.iter().collect::<String>());
            rest = tail;
        }
        self.line(Font::Normal, 9.5, &rest.iter().collect::<String>());
    }

    /// The words as a QR code: squares side by side in a row are one rectangle.
    fn code(&mut self, words: &str) -> Result<(), Failure> {
        let code = QrCode::encode_text(words, QrCodeEcc::Medium);
        let code = code.map_err(|error| Failure::new(Exit::Failed, format!("no QR code can be made: {error}")))?;
        #[expect(clippy::cast_precision_loss, reason = "a code has fewer than 200 squares in a row")]
        let square = CODE_SIZE / code.size() as f32;
        self.y -= 6.0;
        for row in 0..code.size() {
            self.y -= square;
            let mut column = 0;
            while column < code.size() {
                let width = (column..code.size()).take_while(|&at| code.get_module(at, row)).count();
                if width > 0 {
                    #[expect(clippy::cast_precision_loss, reason = "as above")]
                    let (x, width) = (MARGIN + column as f32 * square, width as f32 * square);
                    self.drawing.extend_from_slice(format!("{x:.3} {:.3} {width:.3} {square:.3} re\n", self.y).as_bytes());
                }
                column += i32::try_from(width).unwrap_or(0) + 1;
            }
        }
        self.drawing.extend_from_slice(b"f\n");
        self.y -= 12.0;
        Ok(())
    }
}

/// The objects of a file with one page, and where each begins.
fn file(drawing: &[u8]) -> Zeroizing<Vec<u8>> {
    let fonts: Vec<_> = Font::ALL
        .map(Font::name)
        .map(|name| format!("/{name} << /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>"))
        .into();
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {} {}] /Resources << /Font << {} >> >> /Contents 4 0 R >>",
            PAGE.0,
            PAGE.1,
            fonts.join(" ")
        ),
    ];
    let mut bytes = Zeroizing::new(Vec::with_capacity(drawing.len() + 4096));
    let mut starts = Vec::new();
    bytes.extend_from_slice(b"%PDF-1.4\n");
    for (number, object) in (1..).zip(&objects) {
        starts.push(bytes.len());
        bytes.extend_from_slice(format!("{number} 0 obj\n{object}\nendobj\n").as_bytes());
    }
    starts.push(bytes.len());
    bytes.extend_from_slice(format!("4 0 obj\n<< /Length {} >>\nstream\n", drawing.len()).as_bytes());
    bytes.extend_from_slice(drawing);
    bytes.extend_from_slice(b"endstream\nendobj\n");
    let table = bytes.len();
    bytes.extend_from_slice(format!("xref\n0 {}\n0000000000 65535 f \n", starts.len() + 1).as_bytes());
    for start in &starts {
        bytes.extend_from_slice(format!("{start:010} 00000 n \n").as_bytes());
    }
    bytes.extend_from_slice(format!("trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n", starts.len() + 1).as_bytes());
    bytes
}
