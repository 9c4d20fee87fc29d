//! The Huffman code of HPACK (RFC 7541, 5.2 and appendix B), as far as needed to measure texts and
//! to replace symbols.
//!
//! The code is canonical: codes of one length are consecutive, and shorter codes come before longer
//! ones. So the number of codes of each length is enough to measure a text. To find symbols there
//! is a table of the printable ones.

/// The number of codes of each length in bits. The last code of the longest is EOS, which no text
/// contains.
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

/// The symbols of the first codes, in their order: printable ASCII, and NUL.
const SYMBOLS: &[u8; 96] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~^}<`{\\";

/// The code of a tab, as [`code`] returns it.
const TAB: (u32, u64) = (24, 0);

/// `_`, with the length of its code.
const LOW_LINE: (u32, u64) = (6, 0b10_0010);

/// The measures of a coded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The length of the decoded text in bytes.
    pub symbols: usize,
    /// The number of bits of its codes, without padding.
    pub bits: usize,
    /// Whether it has no control character but tabs, and so is valid in a field (RFC 9110, 5.5).
    pub is_printable: bool,
}

/// Measures a coded text. `None`: it is not valid.
pub fn measure(coded: &[u8]) -> Option<Text> {
    let mut text = Text { symbols: 0, bits: 0, is_printable: true };
    walk(coded, |bits, index| {
        text.symbols += 1;
        text.bits += usize::try_from(bits).ok()?;
        text.is_printable &= !is_control(bits, index)?;
        Some(())
    })?;
    Some(text)
}

/// Whether a coded text has a symbol for which `is_odd` is true. It gets a byte that is not ASCII
/// as 0x80, and a control character other than a tab as NUL. `None`: the text is not valid.
pub fn has(coded: &[u8], is_odd: impl Fn(u8) -> bool) -> Option<bool> {
    let mut any = false;
    walk(coded, |bits, index| {
        any |= is_odd(symbol(bits, index)?);
        Some(())
    })?;
    Some(any)
}

/// Replaces each of these symbols in a coded text by `_`. The result is not longer, if space is the
/// shortest of the symbols. `None`: the text is not valid.
pub fn replaced(coded: &[u8], is_odd: impl Fn(u8) -> bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(coded.len());
    let (mut window, mut filled) = (0_u64, 0_u32);
    walk(coded, |bits, index| {
        let (bits, code) =
            if is_odd(symbol(bits, index)?) { LOW_LINE } else { (bits, first(bits) + index) };
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

/// Passes each code of a text to `each`: its length, and its index among the codes of that length.
/// Stops where `each` returns `None`. `None`: it did, or the text is not valid.
fn walk(coded: &[u8], mut each: impl FnMut(u32, u64) -> Option<()>) -> Option<()> {
    let mut bytes = coded.iter();
    // The next bits. `real` of them are of the text, and the others are ones, as padding is.
    let (mut window, mut filled, mut real) = (0_u64, 0_u32, 0_u32);
    loop {
        while filled <= 32 {
            let next = bytes.next();
            real += if next.is_some() { 8 } else { 0 };
            window = (window << 8) | u64::from(next.copied().unwrap_or(0xff));
            filled += 8;
        }
        let ahead = (window >> (filled - 32)) & 0xffff_ffff;
        let (bits, index) = code(ahead)?;
        if bits > real {
            // Padding has fewer bits than a byte, all of them ones (RFC 7541, 5.2).
            let ones = ahead >> (32 - real.max(1)) == (1 << real.max(1)) - 1;
            return (real < 8 && (real == 0 || ones)).then_some(());
        }
        each(bits, index)?;
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

/// The symbol of a code, as [`has`] passes it.
fn symbol(bits: u32, index: u64) -> Option<u8> {
    let before: u64 =
        LENGTHS.iter().take_while(|(length, _)| *length < bits).map(|(_, codes)| codes).sum();
    match SYMBOLS.get(usize::try_from(before + index).ok()?) {
        Some(symbol) => Some(*symbol),
        None if is_control(bits, index)? => Some(0),
        // The only control character that `is_control` excludes.
        None if (bits, index) == TAB => Some(b'\t'),
        None => Some(0x80),
    }
}

/// The length of the code at the front of these 32 bits, and its index among the codes of that
/// length.
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

/// Whether a code is that of a control character other than a tab. `None`: it is EOS, which is an
/// error in a text.
fn is_control(bits: u32, index: u64) -> Option<bool> {
    match (bits, index) {
        (30, 3) => None,
        // NUL, SOH; STX to US and DEL; LF, CR and SYN.
        (13 | 23, 0) | (28, ..=26) | (30, _) => Some(true),
        _ => Some(false),
    }
}

/// Writes a text of `symbols` letters whose codes have `bits` bits together, with its padding.
/// There are letters of five to eight bits, so `bits` must be between five and eight for each.
/// `out` must have the length of the result.
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
    fn measures_the_texts_of_the_rfc() {
        // RFC 7541, C.4.1 and C.4.2: www.example.com, no-cache.
        assert_eq!(
            measure(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            text(15, 89, true)
        );
        assert_eq!(measure(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]), text(8, 43, true));
        assert_eq!(measure(&[]), text(0, 0, true));
    }

    #[test]
    fn rejects_invalid_texts() {
        assert_eq!(measure(&[0xff]), None, "a whole byte of padding");
        assert_eq!(measure(&[0x1f, 0xff]), None, "the same behind a letter");
        assert_eq!(measure(&[0b0001_1000]), None, "padding of zeros");
        assert_eq!(measure(&[0xff, 0xff, 0xff, 0xff]), None, "EOS");
    }

    #[test]
    fn detects_control_characters() {
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
    fn finds_and_replaces_symbols() {
        for (coded, odd, without) in ODD {
            assert_eq!(has(coded, |symbol| symbol == odd), Some(true), "{odd}");
            assert_eq!(has(coded, |symbol| symbol == b'_'), Some(false), "{odd}");
            assert_eq!(replaced(coded, |symbol| symbol == odd).as_deref(), Some(without), "{odd}");
            assert_eq!(replaced(coded, |_| false).as_deref(), Some(coded), "{odd}");
        }
        assert_eq!(
            (has(&[0xff], |_| true), replaced(&[0xff, 0xff, 0xff, 0xff], |_| true)),
            (None, None),
            "not valid"
        );
    }

    #[test]
    fn fills_any_number_of_letters_and_bits() {
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
