//! Parses arguments, and turns them into a plan, with all errors at once.

use std::time::Duration;

use etcd_warden_gateway::config::Endpoint;
use etcd_warden_tools::bench::identity::Identity;
use etcd_warden_tools::bench::plan::{Length, Plan, Target};
use etcd_warden_tools::bench::worker::Pace;

use super::BenchArgs;
use super::credentials::Identities;

/// Steps of a ramp without `/STEPS`.
const RAMP_STEPS: u32 = 8;

/// The rates of a ramp.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates(pub Vec<f64>);

/// `NAME=URL`.
pub fn named(text: &str) -> Result<(String, Endpoint), String> {
    let (name, url) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no name: write `direct=https://HOST:PORT`"))?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(format!("`{name}` is not a valid name: use letters, digits, `-`, `_` and `.`"));
    }
    Ok((name.to_owned(), url.parse()?))
}

/// `NAME=PID`, or a process id alone.
pub fn pid(text: &str) -> Result<(Option<String>, u32), String> {
    let (name, number) =
        text.split_once('=').map_or((None, text), |(name, number)| (Some(name.to_owned()), number));
    let number = number.parse().map_err(|_| format!("`{number}` is not a process id"))?;
    Ok((name, number))
}

/// A rate per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is not a rate from 0.001 to 10000000 per second"))
}

/// `FROM..TO` or `FROM..TO/STEPS`. The rates are a geometric sequence.
pub fn ramp(text: &str) -> Result<Rates, String> {
    let (range, steps) = text.split_once('/').unwrap_or((text, ""));
    let wrong = || format!("`{text}` is not a ramp: write `1000..20000` or `1000..20000/8`");
    let (from, to) = range.split_once("..").ok_or_else(wrong)?;
    let steps = if steps.is_empty() { RAMP_STEPS } else { steps.parse().map_err(|_| wrong())? };
    let (from, to) = (rate(from)?, rate(to)?);
    if from >= to || !(2..=1000).contains(&steps) {
        return Err(wrong());
    }
    let factor = (to / from).powf(1.0 / f64::from(steps - 1));
    Ok(Rates((0..steps).map(|step| from * factor.powf(f64::from(step))).collect()))
}

/// Upper bound of all durations.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A duration such as `30s` or `500ms`; at most 30 days.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= LONGEST => Ok(time),
        Ok(_) => Err(format!("`{text}` is longer than 30 days")),
        Err(_) => Err(format!("`{text}` is not a duration: write `30s`, `2m` or `500ms`")),
    }
}

/// A key prefix that begins and ends with a slash.
pub fn prefix(text: &str) -> Result<String, String> {
    if text.len() > 1 && text.starts_with('/') && text.ends_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` does not begin and end with `/`: write `/etcd-warden-bench/`"))
    }
}

/// The plan for these arguments.
///
/// # Errors
/// Every argument that cannot be used.
pub fn plan(args: &BenchArgs) -> Result<Plan, Vec<String>> {
    let (whom, what) = (&args.targets, &args.load);
    let mut errors = Vec::new();
    let named = whom
        .endpoint
        .iter()
        .map(|endpoint| ("target".to_owned(), endpoint.clone()))
        .chain(whom.compare.iter().cloned());
    let mut targets: Vec<Target> =
        named.map(|(name, endpoint)| Target { name, endpoint, pid: None }).collect();
    if whom.endpoint.is_none() && targets.len() < 2 {
        errors.push("`--compare` needs two or more targets; for one, use `--endpoint`".to_owned());
    }
    for (number, target) in targets.iter().enumerate() {
        if targets.iter().take(number).any(|other| other.name == target.name) {
            errors.push(format!("`--compare` has `{}` twice", target.name));
        }
    }
    for (name, pid) in &whom.pid {
        let single = targets.len() == 1;
        match targets
            .iter_mut()
            .find(|target| name.as_ref().map_or(single, |name| *name == target.name))
        {
            Some(target) => target.pid = Some(*pid),
            None => errors.push(format!(
                "`--pid` names no target: write `NAME={pid}` with a name of `--compare`"
            )),
        }
        if etcd_warden_tools::bench::process::usage(*pid).is_none() {
            errors.push(format!(
                "`--pid {pid}`: there is no such process, or /proc is not available"
            ));
        }
    }
    if !(0.0..=10.0).contains(&what.zipf) {
        errors.push(format!("`--zipf {}` is not between 0 and 10", what.zipf));
    }
    if what.time.is_zero() {
        errors.push("`--time` is 0".to_owned());
    }
    if what.timeout.is_zero() {
        errors.push("`--timeout` is 0".to_owned());
    }
    let identities = identities(args, &targets).map_err(|wrong| errors.extend(wrong));
    let (identities, operator) = match identities {
        Ok(identities) if errors.is_empty() => identities,
        _ => return Err(errors),
    };
    let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let paces = match (&what.ramp, what.rate) {
        (Some(Rates(rates)), _) => rates.iter().map(|rate| Pace::Open(*rate)).collect(),
        (None, Some(rate)) => vec![Pace::Open(rate)],
        (None, None) => vec![Pace::Closed],
    };
    Ok(Plan {
        rounds: if targets.len() > 1 { what.rounds } else { 1 },
        targets,
        identities,
        operator,
        mix: what.mix.clone(),
        keys: what.keys,
        value_size: number(what.value_size),
        zipf: what.zipf,
        serializable: what.serializable,
        connections: number(what.connections),
        streams: number(what.streams),
        threads: what.threads.map_or(processors.min(4), number).min(number(what.connections)),
        watchers: number(what.watchers),
        own_ranges: what.own_ranges,
        gaps: what.gaps,
        paces,
        ramp: what.ramp.is_some(),
        limit_p99: what.limit_p99,
        seed: what.seed,
        request_timeout: what.timeout,
        warm_up: what.warm_up,
        length: what.count.map_or(Length::Time(what.time), Length::Count),
        etcd_metrics: whom.etcd_metrics.clone(),
        prefix: what.prefix.clone(),
        force: what.force,
    })
}

/// The identities that send the load, and the one that writes and deletes the keys.
fn identities(
    args: &BenchArgs,
    targets: &[Target],
) -> Result<(Vec<Identity>, Identity), Vec<String>> {
    let endpoints: Vec<Endpoint> = targets.iter().map(|target| target.endpoint.clone()).collect();
    let Identities { default, many } = args.targets.credentials.read(&endpoints)?;
    let operator = default
        .or_else(|| many.first().cloned())
        .ok_or_else(|| vec!["there is no certificate".to_owned()])?;
    Ok((if many.is_empty() { vec![operator.clone()] } else { many }, operator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_grows_by_a_constant_factor() {
        let Rates(rates) = ramp("1000..8000/4").unwrap();
        let whole: Vec<u64> = rates.iter().map(|rate| rate.round() as u64).collect();
        assert_eq!(whole, [1000, 2000, 4000, 8000]);
        assert_eq!(ramp("1..10").unwrap().0.len(), 8);
        for wrong in ["1000", "1000..", "2000..1000", "1..2/1", "1..2/x", "0..5"] {
            assert!(ramp(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_pids_prefixes_and_durations_are_checked() {
        assert_eq!(named("direct=https://h:1").unwrap().0, "direct");
        assert!(
            named("https://h:1").is_err()
                && named("=https://h:1").is_err()
                && named("a=ftp://h:1").is_err()
        );
        assert_eq!(pid("12"), Ok((None, 12)));
        assert_eq!(pid("a=12"), Ok((Some("a".to_owned()), 12)));
        assert!(pid("a=b").is_err());
        assert!(prefix("/x/").is_ok());
        assert!(
            time("30d").is_ok()
                && time("31d").is_err()
                && time("99999999999y").is_err()
                && time("5").is_err()
        );
        for wrong in ["", "/", "x/", "/x"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }
}
