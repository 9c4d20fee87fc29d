//! The Huffman code of HPACK (RFC 7541, 5.2 and appendix B), as far as a proxy needs it that only
//! measures texts.
//!
//! The code is canonical: codes of one length follow each other, the shorter before the longer. So
//! the number of codes of each length is all that there is to know to measure a text. To look for
//! letters in it there is a table of those that are written on paper.

/// How many codes there are of each length in bits; the last of the longest is the end of the text,
/// which no text holds.
const LENGTHS: [(u32, u64); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// The symbols of the first codes, in their order: all that ASCII prints, and NUL.
const SYMBOLS: &[u8; 96] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~^}<`{\\";

/// The code of a tab, as [`code`] has it.
const TAB: (u32, u64) = (24, 0);

/// `_`, with the length of its code.
const LOW_LINE: (u32, u64) = (6, 0b10_0010);

/// What a coded text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Bytes of the text itself.
    pub symbols: usize,
    /// Bits of its codes, without the padding.
    pub bits: usize,
    /// It has no control character but tabs, and so may be the value of a field (RFC 9110, 5.5).
    pub is_printable: bool,
}

/// Measures a coded text. `None`: it is none.
#[must_use]
pub fn measure(coded: &[u8]) -> Option<Text> {
    let mut text = Text { symbols: 0, bits: 0, is_printable: true };
    walk(coded, |bits, place| {
        text.symbols += 1;
        text.bits += usize::try_from(bits).ok()?;
        text.is_printable &= !is_control(bits, place)?;
        Some(())
    })?;
    Some(text)
}

/// Whether a coded text has a symbol of which this is true. A byte that is not ASCII is shown as
/// 0x80, a control character but the tab as NUL. `None`: it is no text.
#[must_use]
pub fn has(coded: &[u8], is_odd: impl Fn(u8) -> bool) -> Option<bool> {
    let mut any = false;
    walk(coded, |bits, place| {
        any |= is_odd(symbol(bits, place)?);
        Some(())
    })?;
    Some(any)
}

/// The same text, coded, with `_` in the place of each of these symbols: no longer than it was,
/// where space is the shortest of them. `None`: it is no text.
#[must_use]
pub fn replaced(coded: &[u8], is_odd: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(coded.len());
    let (mut window, mut filled) = (0_u64, 0_u32);
    walk(coded, |bits, place| {
        let (bits, code) =
            if is_odd(symbol(bits, place)?) { LOW_LINE } else { (bits, first(bits) + place) };
        (window, filled) = ((window << bits) | code, filled + bits);
        while filled >= 8 {
            filled -= 8;
            out.push(u8::try_from((window >> filled) & 0xff).ok()?);
        }
        window &= (1 << filled) - 1;
        Some(())
    })?;
    if filled > 0 {
        out.push(u8::try_from((window << (8 - filled) | (0xff >> filled)) & 0xff).ok()?);
    }
    Some(out)
}

/// Shows each code of a text, its length and its place among those of that length, until `each`
/// says `None`. `None`: it did, or it is no text.
fn walk(coded: &[u8], mut each: impl FnMut(u32, u64) -> Option<()>) -> Option<()> {
    let mut bytes = coded.iter();
    // The next bits, of which `real` are there; those behind them are ones, as padding is.
    let (mut window, mut filled, mut real) = (0_u64, 0_u32, 0_u32);
    loop {
        while filled <= 32 {
            let next = bytes.next();
            real += if next.is_some() { 8 } else { 0 };
            window = (window << 8) | u64::from(next.copied().unwrap_or(0xff));
            filled += 8;
        }
        let ahead = (window >> (filled - 32)) & 0xffff_ffff;
        let (bits, place) = code(ahead)?;
        if bits > real {
            // Fewer bits than any code, all of them ones (RFC 7541, 5.2).
            let ones = ahead >> (32 - real.max(1)) == (1 << real.max(1)) - 1;
            return (real < 8 && (real == 0 || ones)).then_some(());
        }
        each(bits, place)?;
        (filled, real) = (filled - bits, real - bits);
        window &= (1 << filled) - 1;
    }
}

/// The first code of this length.
fn first(bits: u32) -> u64 {
    LENGTHS
        .iter()
        .take_while(|(length, _)| *length < bits)
        .map(|(length, codes)| codes << (bits - length))
        .sum()
}

/// The symbol of a code, as [`has`] shows it.
fn symbol(bits: u32, place: u64) -> Option<u8> {
    let before: u64 =
        LENGTHS.iter().take_while(|(length, _)| *length < bits).map(|(_, codes)| codes).sum();
    match SYMBOLS.get(usize::try_from(before + place).ok()?) {
        Some(symbol) => Some(*symbol),
        None if is_control(bits, place)? => Some(0),
        // The one control character that `is_control` leaves out.
        None if (bits, place) == TAB => Some(b'\t'),
        None => Some(0x80),
    }
}

/// The length of the code at the front of these 32 bits, and its place among those of that length.
fn code(ahead: u64) -> Option<(u32, u64)> {
    let mut begin = 0;
    for (bits, codes) in LENGTHS {
        let end = begin + (codes << (32 - bits));
        if ahead < end {
            return Some((bits, (ahead - begin) >> (32 - bits)));
        }
        begin = end;
    }
    None
}

/// Whether a code is that of a control character, a tab apart. `None`: it is the end of the text,
/// which is an error in it.
fn is_control(bits: u32, place: u64) -> Option<bool> {
    match (bits, place) {
        (30, 3) => None,
        // NUL, SOH; STX to US and DEL; LF, CR and SYN.
        (13 | 23, 0) | (28, ..=26) | (30, _) => Some(true),
        _ => Some(false),
    }
}

/// Writes a text of so many letters whose codes have so many bits together, with its padding. There
/// are letters of five to eight bits: `bits` must be between five and eight for each, and `out` as
/// long as that takes.
pub fn fill(out: &mut [u8], symbols: usize, bits: usize) {
    /// `a`, `b`, `j`, `X`.
    const LETTERS: [(u32, u64); 4] =
        [(5, 0b00011), (6, 0b10_0011), (7, 0b111_0100), (8, 0b1111_1100)];
    let mut more = bits.saturating_sub(symbols.saturating_mul(5));
    let (mut window, mut filled) = (0_u64, 0_u32);
    let mut left = symbols;
    for byte in out {
        while filled < 8 {
            let (length, letter) = match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    let extra = more.min(3);
                    more -= extra;
                    LETTERS.get(extra).copied().unwrap_or((8, 0xff))
                }
                None => (8, 0xff),
            };
            window = (window << length) | letter;
            filled += length;
        }
        filled -= 8;
        *byte = u8::try_from((window >> filled) & 0xff).unwrap_or(0xff);
        window &= (1 << filled) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(symbols: usize, bits: usize, is_printable: bool) -> Option<Text> {
        Some(Text { symbols, bits, is_printable })
    }

    #[test]
    fn texts_of_the_rfc_have_their_length() {
        // RFC 7541, C.4.1 and C.4.2: www.example.com, no-cache.
        assert_eq!(
            measure(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            text(15, 89, true)
        );
        assert_eq!(measure(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]), text(8, 43, true));
        assert_eq!(measure(&[]), text(0, 0, true));
    }

    #[test]
    fn what_is_no_text_has_no_length() {
        assert_eq!(measure(&[0xff]), None, "a whole byte of padding");
        assert_eq!(measure(&[0x1f, 0xff]), None, "and behind a letter");
        assert_eq!(measure(&[0b0001_1000]), None, "padding of zeros");
        assert_eq!(measure(&[0xff, 0xff, 0xff, 0xff]), None, "the end of the text");
    }

    #[test]
    fn control_characters_are_seen() {
        // 13 and 30 bits of NUL and LF; 24 of a tab.
        assert_eq!(measure(&[0xff, 0xc7]), text(1, 13, false));
        assert_eq!(measure(&[0xff, 0xff, 0xff, 0xf3]), text(1, 30, false));
        assert_eq!(measure(&[0xff, 0xff, 0xea]), text(1, 24, true));
    }

    /// `a`, `#`, `b`; a space; a tab; a byte that is not ASCII.
    const ODD: [(&[u8], u8, &[u8]); 4] = [
        (&[0x1f, 0xfd, 0x47], b'#', &[0x1c, 0x51, 0xff]),
        (&[0x53], b' ', &[0x8b]),
        (&[0xff, 0xff, 0xea], b'\t', &[0x8b]),
        (&[0xff, 0xfe, 0x3f], 0x80, &[0x8b]),
    ];

    #[test]
    fn a_symbol_can_be_found_and_replaced() {
        for (coded, odd, without) in ODD {
            assert_eq!(has(coded, |symbol| symbol == odd), Some(true), "{odd}");
            assert_eq!(has(coded, |symbol| symbol == b'_'), Some(false), "{odd}");
            assert_eq!(replaced(coded, |symbol| symbol == odd).as_deref(), Some(without), "{odd}");
            assert_eq!(replaced(coded, |_| false).as_deref(), Some(coded), "{odd}");
        }
        assert_eq!(
            (has(&[0xff], |_| true), replaced(&[0xff, 0xff, 0xff, 0xff], |_| true)),
            (None, None),
            "no text"
        );
    }

    #[test]
    fn a_text_can_be_made_of_any_length_in_letters_and_bits() {
        for symbols in 0..40_usize {
            for bits in symbols * 5..=symbols * 8 {
                let mut out = vec![0; bits.div_ceil(8)];
                fill(&mut out, symbols, bits);
                assert_eq!(
                    measure(&out),
                    text(symbols, bits, true),
                    "{symbols} letters, {bits} bits"
                );
            }
        }
    }
}
