use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::huffman;
use super::*;

/// One field, and how a client encodes it.
#[derive(Clone, Debug)]
enum Written {
    /// An entry of either table. An index beyond the dynamic table wraps around.
    Indexed(usize),
    Literal {
        name: Named,
        value: Text,
        indexing: u8,
    },
    Resize(usize),
}

#[derive(Clone, Debug)]
enum Named {
    Static(usize),
    Dynamic(usize),
    Plain(&'static str),
    Coded,
}

/// A text of `symbols` letters: plain, or coded with `coded` bits more than five for each.
#[derive(Clone, Debug)]
struct Text {
    symbols: usize,
    coded: Option<usize>,
}

/// The reference: a table as in RFC 7541, with names and the lengths of values.
#[derive(Clone, Debug, Default)]
struct Reference {
    entries: Vec<(String, usize)>,
    max: usize,
}

impl Reference {
    fn size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value + OVERHEAD).sum()
    }

    fn add(&mut self, name: &str, value: usize) {
        self.entries.insert(0, (name.to_owned(), value));
        while self.size() > self.max {
            self.entries.pop();
        }
    }

    fn at(&self, index: usize) -> Option<(String, usize)> {
        if index <= 61 {
            let name = match index {
                1 => ":authority".to_owned(),
                2 | 3 => ":method".to_owned(),
                36 => "expires".to_owned(),
                2..=14 => ":".repeat(usize::from(STATIC_NAMES[index - 1])),
                55 => "set-cookie".to_owned(),
                _ => "s".repeat(usize::from(STATIC_NAMES[index - 1])),
            };
            return Some((name, 0));
        }
        self.entries.get(index - 62).cloned()
    }

    /// The header list of a block: names, and the lengths of their values.
    fn read(&mut self, block: &[u8]) -> Option<Vec<(String, usize)>> {
        let (mut at, mut list) = (0, Vec::new());
        while at < block.len() {
            let first = block[at];
            if first & 0x80 != 0 {
                let index = integer(block, &mut at, 7)?;
                list.push(self.at(index)?);
            } else if first & 0xe0 == 0x20 {
                self.max = integer(block, &mut at, 5)?;
                while self.size() > self.max {
                    self.entries.pop();
                }
            } else {
                let indexing = first & 0xc0 == 0x40;
                let index = integer(block, &mut at, if indexing { 6 } else { 4 })?;
                let name = if index > 0 {
                    self.at(index)?.0
                } else {
                    let text = Value::read(block, &mut at)?;
                    let bytes = &block[text.begin..text.end];
                    match text.coded {
                        true if bytes == AUTHORITY_CODED => ":authority".to_owned(),
                        true => "c".repeat(text.length(block)?),
                        false => String::from_utf8(bytes.to_vec()).ok()?,
                    }
                };
                let value = Value::read(block, &mut at)?.length(block)?;
                list.push((name.clone(), value));
                if indexing {
                    self.add(&name, value);
                }
            }
        }
        Some(list)
    }
}

fn number(out: &mut Vec<u8>, first: u8, prefix: u32, number: usize) {
    let mask = (1_usize << prefix) - 1;
    if number < mask {
        return out.push(first | number as u8);
    }
    out.push(first | mask as u8);
    let mut rest = number - mask;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

impl Text {
    fn write(&self, out: &mut Vec<u8>) {
        match self.coded {
            None => {
                number(out, 0, 7, self.symbols);
                out.extend(b"#/,[]=%\xc3".iter().cycle().take(self.symbols));
            }
            // The code of `#` has 12 bits, more than the plain letter.
            Some(4) => {
                let mut bytes = vec![0_u8; (self.symbols * 12).div_ceil(8)];
                bytes
                    .chunks_mut(3)
                    .for_each(|three| three.copy_from_slice(&[0xff, 0xaf, 0xfa][..three.len()]));
                if self.symbols % 2 == 1 {
                    *bytes.last_mut().unwrap() = 0xaf;
                }
                number(out, 0x80, 7, bytes.len());
                out.extend(bytes);
            }
            Some(more) => {
                let bits = self.symbols * (5 + more);
                let mut bytes = vec![0; bits.div_ceil(8)];
                huffman::fill(&mut bytes, self.symbols, bits);
                number(out, 0x80, 7, bytes.len());
                out.extend(bytes);
            }
        }
    }
}

impl Written {
    /// Encodes it for a client whose table is `client`.
    fn write(&self, client: &Reference, out: &mut Vec<u8>) {
        let dynamic = |index: usize| {
            if client.entries.is_empty() { 1 } else { 62 + index % client.entries.len() }
        };
        match self {
            Written::Indexed(index) if *index < 61 => number(out, 0x80, 7, index + 1),
            Written::Indexed(index) => number(out, 0x80, 7, dynamic(*index)),
            Written::Resize(max) => number(out, 0x20, 5, *max),
            Written::Literal { name, value, indexing } => {
                let (first, prefix) = [(0x40, 6), (0, 4), (0x10, 4)][usize::from(*indexing % 3)];
                match name {
                    Named::Static(index) => number(out, first, prefix, index % 61 + 1),
                    Named::Dynamic(index) => number(out, first, prefix, dynamic(*index)),
                    Named::Plain(name) => {
                        out.push(first);
                        number(out, 0, 7, name.len());
                        out.extend(name.as_bytes());
                    }
                    Named::Coded => {
                        out.push(first);
                        number(out, 0x80, 7, AUTHORITY_CODED.len());
                        out.extend(AUTHORITY_CODED);
                    }
                }
                value.write(out);
            }
        }
    }
}

fn text() -> impl Strategy<Value = Text> {
    (prop_oneof![4 => 0..20_usize, 1 => 100..300_usize], proptest::option::of(0..5_usize))
        .prop_map(|(symbols, coded)| Text { symbols, coded })
}

fn written() -> impl Strategy<Value = Written> {
    let name = prop_oneof![
        3 => Just(Named::Static(0)),
        2 => (0..61_usize).prop_map(Named::Static),
        2 => (0..40_usize).prop_map(Named::Dynamic),
        1 => Just(Named::Plain(":authority")),
        1 => Just(Named::Coded),
        1 => select(&["x-some", "content-type", ":path", "x"][..]).prop_map(Named::Plain),
    ];
    prop_oneof![
        3 => (0..120_usize).prop_map(Written::Indexed),
        4 => (name, text(), 0..3_u8)
            .prop_map(|(name, value, indexing)| Written::Literal { name, value, indexing }),
    ]
}

/// The list without `:authority`, `:method` and their stand-ins, which may be replaced by each
/// other.
fn comparable(list: &[(String, usize)]) -> Vec<(String, usize)> {
    let mut list: Vec<_> = list
        .iter()
        .filter(|(name, _)| !matches!(&**name, ":authority" | "set-cookie" | ":method" | "expires"))
        .cloned()
        .collect();
    list.sort();
    list
}

type FieldBlock = (Option<usize>, Vec<Written>);

/// Blocks of one connection, each with a new table size or none.
fn blocks() -> impl Strategy<Value = Vec<FieldBlock>> {
    vec((proptest::option::of(0..4097_usize), vec(written(), 0..12)), 1..8)
}

proptest! {
    #[test]
    fn both_tables_have_the_same_size_after_any_blocks(blocks in blocks()) {
        let mut client = Reference { max: TABLE, ..Reference::default() };
        let mut server = client.clone();
        let mut table = Table::new();
        for (resize, fields) in blocks {
            let mut block = Vec::new();
            if let Some(max) = resize {
                Written::Resize(max).write(&client, &mut block);
                client.read(&block).unwrap();
            }
            let mut expected = Vec::new();
            for field in fields {
                let mut bytes = Vec::new();
                field.write(&client, &mut bytes);
                expected.extend(client.read(&bytes).unwrap());
                block.extend(bytes);
            }
            let before = block.len();
            let read = table.read(&mut block);
            prop_assert!(read.length <= before && !table.lost);
            let has_pseudo = expected.iter().any(|(name, _)| name.starts_with(':'));
            prop_assert_eq!(read.has_pseudo, has_pseudo);
            block.truncate(read.length);
            let seen = server.read(&block).unwrap();
            prop_assert_eq!(comparable(&seen), comparable(&expected));
            prop_assert_eq!(server.size(), client.size());
            prop_assert_eq!(server.entries.len(), client.entries.len());
            for ((name, value), (ours, same)) in client.entries.iter().zip(&server.entries) {
                prop_assert_eq!((name.len(), value), (ours.len(), same));
            }
        }
    }

    #[test]
    fn reads_any_bytes_without_growing_them(mut bytes in vec(any::<u8>(), 0..200)) {
        let before = bytes.len();
        let mut table = Table::new();
        prop_assert!(table.read(&mut bytes).length <= before);
    }
}

#[test]
fn overwrites_an_authority_with_letters() {
    let odd = b"#initially=[https://127.0.0.1:2379]";
    let mut block = [&[0x41, odd.len() as u8][..], odd].concat();
    let read = Table::new().read(&mut block);
    assert_eq!(read, Block { length: block.len(), has_pseudo: true, is_malformed: true });
    assert_eq!(block[2..], [b'a'; 35]);
}

#[test]
fn replaces_an_empty_authority_by_a_stand_in() {
    let mut table = Table::new();
    // POST, https, an empty authority, a path that is not for the table, te: trailers.
    let mut block = [0x83, 0x87, 0x41, 0, 0x04, 2, b'/', b'x', 0x0f, 0x2b, 1, b't'];
    let read = table.read(&mut block);
    assert_eq!(
        block[..read.length],
        [0x83, 0x87, 0x04, 2, b'/', b'x', 0x77, 0, 0x0f, 0x2b, 1, b't']
    );
    assert_eq!(table.size, 42);
    let mut again = [0x83, 0x80 | 62, 0x87];
    let read = table.read(&mut again);
    assert_eq!(again[..read.length], [0x83, 0x87]);
}

/// A literal with this value behind the bytes `first`.
fn field(first: &[u8], value: &[u8]) -> Vec<u8> {
    [first, &[value.len() as u8], value].concat()
}

#[test]
fn removes_the_static_empty_authority() {
    let mut table = Table::new();
    let mut block = [0x83, 0x87, 0x81, 0x84];
    let read = table.read(&mut block);
    assert_eq!(
        (&block[..read.length], read.is_malformed, table.size),
        (&[0x83, 0x87, 0x84][..], false, 0)
    );
}

#[test]
fn replaces_invalid_bytes_of_a_path_in_each_encoding() {
    let names = [
        &[0x04][..],
        &[0x44],
        &[0x40, 5, b':', b'p', b'a', b't', b'h'],
        &[0x10, 0x84, 0xb9, 0x58, 0xd3, 0x3f],
    ];
    for name in names {
        for (path, shown) in [
            (&b"/a#b"[..], &b"/a_b"[..]),
            (b"/a#", b"/a_"),
            (b"/ \"<>`\xfc", b"/______"),
            (b"/a?b#", b"/a?b_"),
            (b"/a|{}^", b"/a|{}^"),
        ] {
            let mut block = field(name, path);
            let read = Table::new().read(&mut block);
            assert_eq!(
                (&block[..read.length], read.is_malformed),
                (&*field(name, shown), false),
                "{path:?}"
            );
        }
        // `/a#b` and `/a_b`, coded.
        let mut table = Table::new();
        let mut block = [name, &[0x84, 0x60, 0x7f, 0xf5, 0x1f], &[0x88]].concat();
        let read = table.read(&mut block);
        assert_eq!(block[..read.length], [name, &[0x83, 0x60, 0x71, 0x47], &[0x88]].concat());
        assert!(!table.lost && (table.size == 0 || table.size == 5 + 4 + OVERHEAD));
    }
}

#[test]
fn replaces_invalid_bytes_of_a_method() {
    let mut block = field(&[0x42], b"A B");
    let read = Table::new().read(&mut block);
    assert_eq!(block[..read.length], field(&[0x42], b"A_B"));
}

#[test]
fn reports_heads_that_etcd_resets_as_malformed() {
    let with = |fields: &[&[u8]]| {
        let mut table = Table::new();
        let mut block = fields.concat();
        let read = table.read(&mut block);
        // The same field from the table, if it was added.
        let mut again = [&fields[1..].concat()[..], &[0x80 | 62]].concat();
        let again = if table.entries.is_empty() { read } else { table.read(&mut again) };
        assert!(!table.lost && read.is_malformed == again.is_malformed, "{fields:?}");
        block.truncate(read.length);
        (block, read.is_malformed)
    };
    for scheme in [&b"ftp"[..], b"HTTPS", b"https ", b""] {
        for name in [0x06, 0x46] {
            assert_eq!(
                with(&[&field(&[name], scheme), &[0x83, 0x84]]),
                ([&field(&[name], scheme)[..], &[0x83, 0x84]].concat(), true),
                "{scheme:?}"
            );
        }
    }
    for scheme in [
        &[0x06, 5, b'h', b't', b't', b'p', b's'][..],
        &[0x46, 4, b'h', b't', b't', b'p'],
        &[0x06, 0x84, 0x9d, 0x29, 0xad, 0x1f],
        &[0x87],
    ] {
        assert!(!with(&[scheme, &[0x83, 0x84]]).1, "{scheme:?}");
    }
    assert!(with(&[&[0x83], &[0x87]]).1, "no path");
    assert_eq!(with(&[&[0x02, 0], &[0x87, 0x84]]), (vec![0x87, 0x84], true));
    assert_eq!(with(&[&[0x42, 0], &[0x87, 0x84]]), (vec![EXPIRES, 0, 0x87, 0x84], true));
}

#[test]
fn keeps_a_text_that_is_not_valid_in_a_field() {
    let mut block = [0x41, 3, b'a', b'\n', b'b'];
    Table::new().read(&mut block);
    assert_eq!(block, [0x41, 3, b'a', b'\n', b'b']);
}
