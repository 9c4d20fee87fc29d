//! `txn` in the syntax of etcdctl: compares, operations if all hold, operations otherwise.

use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_warden_proto::etcdserverpb::request_op;

use super::call::{DEL, GET, PUT, bytes};
use super::words::Words;

/// The lines of the three blocks: compares, success, failure.
pub(super) type Blocks = [Vec<String>; 3];

/// The blocks of `COMPARE.. then OP.. else OP..`, one argument for each line.
pub(super) fn blocks_of_arguments(words: &[String]) -> Blocks {
    let mut blocks = Blocks::default();
    let mut at = 0;
    for word in words {
        match word.as_str() {
            "then" => at = 1,
            "else" => at = 2,
            line => {
                blocks.iter_mut().skip(at).take(1).for_each(|block| block.push(line.to_owned()));
            }
        }
    }
    blocks
}

/// The blocks of etcdctl's standard input: an empty line ends each.
///
/// # Errors
/// There is text after the third block, which etcdctl would not read.
pub(super) fn blocks_of_text(text: &str) -> Result<Blocks, String> {
    let mut blocks = Blocks::default();
    let mut at = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            at += 1;
        } else {
            let block = blocks.get_mut(at).ok_or_else(|| {
                format!("`{line}` follows the three blocks of a txn: an empty line ends each block")
            })?;
            block.push(line.to_owned());
        }
    }
    Ok(blocks)
}

/// Parses the lines.
///
/// # Errors
/// The first line that etcdctl would refuse, too.
pub(super) fn parse([compares, success, failure]: &Blocks) -> Result<pb::TxnRequest, String> {
    let operations =
        |lines: &[String]| lines.iter().map(|line| operation(line)).collect::<Result<Vec<_>, _>>();
    Ok(pb::TxnRequest {
        compare: compares.iter().map(|line| compare(line)).collect::<Result<_, _>>()?,
        success: operations(success)?,
        failure: operations(failure)?,
    })
}

/// `mod("key") = "0"`; the targets are `value`, `version`, `create`, `mod` and `lease`, with
/// etcdctl's short forms.
fn compare(line: &str) -> Result<pb::Compare, String> {
    let wrong = || {
        format!(
            "`{line}` is not a compare: write `mod(\"key\") = \"0\"` (value, version, create, mod, \
             lease; =, !=, <, >)"
        )
    };
    let (target, rest) = line.split_once('(').ok_or_else(wrong)?;
    let (key, rest) = quoted(rest).ok_or_else(wrong)?;
    let rest = rest.trim_start().strip_prefix(')').ok_or_else(wrong)?.trim_start();
    let (result, rest) = [
        ("=", CompareResult::Equal),
        ("!=", CompareResult::NotEqual),
        ("<", CompareResult::Less),
        (">", CompareResult::Greater),
    ]
    .into_iter()
    .find_map(|(sign, result)| Some((result, rest.strip_prefix(sign)?)))
    .ok_or_else(wrong)?;
    let value = rest.trim();
    let value = quoted(value).map_or(value, |(value, _)| value);
    let number = || {
        value
            .parse::<i64>()
            .map_err(|_| format!("`{value}` is not a number, which `{}` needs", target.trim()))
    };
    let (target, union) = match target.trim() {
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(bytes(value)?)),
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "lease" => {
            let id = i64::from_str_radix(value, 16)
                .map_err(|_| format!("`{value}` is not a lease id in hexadecimal"))?;
            (CompareTarget::Lease, TargetUnion::Lease(id))
        }
        _ => return Err(wrong()),
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key)?,
        range_end: Vec::new(),
        target_union: Some(union),
    })
}

/// `put KEY VALUE`, `get KEY`, `del KEY`, with their flags.
fn operation(line: &str) -> Result<pb::RequestOp, String> {
    let words = split(line)?;
    let (command, rest) = words.split_first().ok_or("an operation is missing")?;
    let words = |flags| {
        let words = Words::of(rest, flags)?;
        words.arguments(1, 2, false)?;
        Ok::<_, String>(words)
    };
    let request = match command.as_str() {
        "put" => words(PUT).and_then(|words| words.put()).map(request_op::Request::RequestPut),
        "get" => words(GET).and_then(|words| words.range()).map(request_op::Request::RequestRange),
        "del" => {
            words(DEL).and_then(|words| words.delete()).map(request_op::Request::RequestDeleteRange)
        }
        other => Err(format!("`{other}` is not an operation of a txn: use put, get or del")),
    };
    let request = request.map_err(|error| format!("`{line}`: {error}"))?;
    Ok(pb::RequestOp { request: Some(request) })
}

/// The text in the double quotes at the start, and the text after them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.trim_start().strip_prefix('"')?.split_once('"')
}

/// Splits a line at white space. Quotes hold a word together.
fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(format!("`{line}` has an unclosed quote")) } else { Ok(words) }
}
