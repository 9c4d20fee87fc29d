//! Splits a call into arguments and flags as etcdctl does: its flags are those of spf13/pflag, and
//! each command has its own set.

use super::call::bytes;

/// A flag of etcdctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    takes_value: bool,
}

/// A flag without a value: `--prefix`, `--prefix=true`, `--prefix=false`.
pub(super) const fn switch(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: false }
}

/// A flag with a value: `--limit=5`, `--limit 5`.
pub(super) const fn valued(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: true }
}

/// The same flag with a one-letter form: `-l`.
pub(super) const fn or(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

/// The global flags of etcdctl (`etcdctl/ctlv3/ctl.go`, 3.5 to 3.7). Only `--user` changes what a
/// call requests.
const GLOBAL: &[Flag] = &[
    valued("endpoints"),
    switch("debug"),
    or('w', valued("write-out")),
    switch("hex"),
    valued("dial-timeout"),
    valued("command-timeout"),
    valued("keepalive-time"),
    valued("keepalive-timeout"),
    valued("max-request-bytes"),
    valued("max-recv-bytes"),
    switch("insecure-transport"),
    switch("insecure-discovery"),
    switch("insecure-skip-tls-verify"),
    valued("cert"),
    valued("key"),
    valued("cacert"),
    or('d', valued("discovery-srv")),
    valued("discovery-srv-name"),
];

/// Flags that make a call impossible to explain, and why.
const REFUSED: &[(&str, &str)] = &[
    ("user", "it logs in with a password, and decisions are about certificates"),
    ("password", "it logs in with a password, and decisions are about certificates"),
    ("auth-jwt-token", "it logs in with a token, and decisions are about certificates"),
    ("help", "it prints help and makes no call"),
];

/// The arguments and flags of a call.
#[derive(Debug, Default)]
pub(super) struct Words {
    arguments: Vec<String>,
    /// The number of arguments before `--`, if there is one.
    before_dashes: Option<usize>,
    flags: Vec<(&'static str, String)>,
}

impl Words {
    /// Sorts words into arguments and flags. `flags`: those of the command, beside [`GLOBAL`].
    ///
    /// # Errors
    /// A flag that the command does not have, a missing value, or a switch with a value that is not
    /// a boolean. etcdctl refuses these, too.
    pub(super) fn of(words: &[String], flags: &[Flag]) -> Result<Self, String> {
        let mut sorted = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                sorted.before_dashes = Some(sorted.arguments.len());
                sorted.arguments.extend(words.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                let (name, value) =
                    long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let known = |flag: &&Flag| flag.name == name;
                let flag = flags
                    .iter()
                    .chain(GLOBAL)
                    .find(known)
                    .ok_or_else(|| unknown(&format!("--{name}"), name, flags))?;
                let value = value.or_else(|| {
                    if flag.takes_value { words.next().map(String::as_str) } else { Some("true") }
                });
                sorted.set(*flag, &format!("--{name}"), value)?;
            } else if let Some(letters) =
                word.strip_prefix('-').filter(|letters| !letters.is_empty())
            {
                sorted.short(letters, flags, &mut words)?;
            } else {
                sorted.arguments.push(word.clone());
            }
        }
        Ok(sorted)
    }

    /// `-l`, `-lw json`, `-wjson`, `-w=json`.
    fn short<'w>(
        &mut self,
        letters: &'w str,
        flags: &[Flag],
        words: &mut impl Iterator<Item = &'w String>,
    ) -> Result<(), String> {
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            let written = format!("-{letter}");
            let known = |flag: &&Flag| flag.short == Some(letter);
            let help = if letter == 'h' { "help" } else { "" };
            let flag = flags
                .iter()
                .chain(GLOBAL)
                .find(known)
                .ok_or_else(|| unknown(&written, help, flags))?;
            rest = rest.get(letter.len_utf8()..).unwrap_or_default();
            if let Some(value) = rest.strip_prefix('=') {
                return self.set(*flag, &written, Some(value));
            }
            if flag.takes_value {
                let value =
                    if rest.is_empty() { words.next().map(String::as_str) } else { Some(rest) };
                return self.set(*flag, &written, value);
            }
            self.set(*flag, &written, Some("true"))?;
        }
        Ok(())
    }

    fn set(&mut self, flag: Flag, written: &str, value: Option<&str>) -> Result<(), String> {
        let value = value.ok_or_else(|| format!("`{written}` needs a value"))?;
        // The forms of Go's strconv.ParseBool.
        let value = match value {
            _ if flag.takes_value => value,
            "1" | "t" | "T" | "true" | "TRUE" | "True" => "true",
            "0" | "f" | "F" | "false" | "FALSE" | "False" => "false",
            _ => return Err(format!("`{written}={value}` is neither `true` nor `false`")),
        };
        self.flags.push((flag.name, value.to_owned()));
        Ok(())
    }

    /// True if a switch is set. The last occurrence decides.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.value(flag) == Some("true")
    }

    /// The value of a flag. The last occurrence decides.
    pub(super) fn value(&self, flag: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(name, _)| *name == flag).map(|(_, value)| value.as_str())
    }

    /// The arguments. With `runs`, the words after `--` are a program for etcdctl to run, and are
    /// left out.
    ///
    /// # Errors
    /// There are fewer than `least` or more than `most`.
    pub(super) fn arguments(
        &self,
        least: usize,
        most: usize,
        runs: bool,
    ) -> Result<&[String], String> {
        let end = self.before_dashes.filter(|_| runs).unwrap_or(self.arguments.len());
        let arguments = self.arguments.get(..end).unwrap_or_default();
        match (arguments.len() < least, arguments.get(most)) {
            (true, _) if least == 1 => Err("an argument is missing".to_owned()),
            (true, _) => {
                Err(format!("{least} arguments are required, and there are {}", arguments.len()))
            }
            (false, Some(more)) => Err(format!("`{more}` is an unexpected argument")),
            (false, None) => Ok(arguments),
        }
    }

    /// The argument at this index, as bytes of a key.
    ///
    /// # Errors
    /// It is missing, or has an invalid escape.
    pub(super) fn key(&self, at: usize) -> Result<Vec<u8>, String> {
        bytes(self.arguments.get(at).ok_or("a key is missing")?)
    }

    /// The argument at this index, if there is one.
    pub(super) fn argument(&self, at: usize) -> Option<&str> {
        self.arguments.get(at).map(String::as_str)
    }
}

fn unknown(written: &str, name: &str, flags: &[Flag]) -> String {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return format!("`{written}` cannot be explained: {why}");
    }
    let known: Vec<String> = flags
        .iter()
        .map(|flag| {
            flag.short.map_or_else(
                || format!("--{}", flag.name),
                |short| format!("-{short}, --{}", flag.name),
            )
        })
        .collect();
    let have = if known.is_empty() {
        "it has no flags of its own".to_owned()
    } else {
        format!("it has {}", known.join(", "))
    };
    format!(
        "`{written}` is not a flag of this call: {have}; write a key or value that begins with `-` \
         after `--`"
    )
}
