use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> LeaseKey {
    LeaseKey::from_bytes(&[byte; MIN_KEY_BYTES]).unwrap()
}

proptest! {
    #[test]
    fn an_id_is_its_owners_positive_and_the_same_on_every_replica(name in ".*", other in ".*", salt: u32) {
        let id = key(1).mint(&name, salt);
        prop_assert!(id > 0);
        prop_assert_eq!(key(1).ownership(id, &name), Ownership::Own);
        prop_assert_eq!(key(1).mint(&name, salt), id);
        if name != other {
            prop_assert_eq!(key(1).ownership(id, &other), Ownership::Sealed);
        }
    }

    #[test]
    fn an_id_with_one_bit_changed_is_not_its_owners(salt: u32, bit in 0_u32..64) {
        let id = key(1).mint("calico-node:a", salt);
        prop_assert_ne!(key(1).ownership(id ^ (1_i64 << bit), "calico-node:a"), Ownership::Own);
    }
}

#[test]
fn no_two_of_many_identities_share_an_id() {
    let key = key(7);
    let names: Vec<String> =
        (0..2_000).map(|n| format!("calico/cn:calico-node:node-{n}")).collect();
    let mut ids: Vec<i64> = names.iter().map(|name| key.mint(name, 0xabcde)).collect();
    for (owner, id) in ids.iter().enumerate() {
        let owners = names
            .iter()
            .enumerate()
            .step_by(97)
            .filter(|&(n, name)| n != owner && key.ownership(*id, name) == Ownership::Own);
        assert_eq!(owners.count(), 0);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), names.len());
}

#[test]
fn under_another_key_nearly_every_id_is_foreign_and_none_is_owned() {
    let (ours, theirs) = (key(1), key(2));
    let ids = (0..20_000).map(|salt| theirs.mint("a", salt));
    let sealed = ids
        .map(|id| ours.ownership(id, "a"))
        .inspect(|&whose| assert_ne!(whose, Ownership::Own))
        .filter(|&whose| whose == Ownership::Sealed)
        .count();
    // 20,000 / 4096 = 4.9 are expected; the keys and salts are fixed, so this never changes.
    assert!(sealed < 20, "{sealed}");
}

#[test]
fn each_salt_gives_another_id_and_0_counts_as_1() {
    let mut ids: Vec<i64> = (1..5_000).map(|salt| key(1).mint("a", salt)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4_999);
    assert_eq!(key(1).mint("a", 0), key(1).mint("a", 1));
    assert_eq!(key(1).mint("a", 1 << 20), key(1).mint("a", 1));
}

#[test]
fn ids_that_the_proxy_never_makes_are_foreign() {
    for id in [0, 1, -1, i64::MIN, (1 << 43) - 1, 0x7ab] {
        assert_eq!(key(1).ownership(id, "a"), Ownership::Foreign, "{id}");
    }
}

#[test]
fn a_short_key_is_refused_and_no_key_is_shown() {
    let error = LeaseKey::from_bytes(&[1; 31]).unwrap_err();
    assert_eq!(error.to_string(), "a lease key has at least 32 random bytes, this one has 31");
    assert_eq!(format!("{:?}", key(9)), "LeaseKey(..)");
    let (one, two) = (LeaseKey::random().unwrap(), LeaseKey::random().unwrap());
    assert_ne!(one.mint("a", 1), two.mint("a", 1));
}

/// Bits that depend on all of the input look like a fair coin: of `tries`, the share of ones is
/// within five deviations of a half.
fn is_fair(ones: u32, tries: u32) -> bool {
    f64::from(ones.abs_diff(tries / 2)) <= 5.0 * f64::from(tries).sqrt() / 2.0
}

/// Numbers without a pattern, the same in each run (xorshift64*; George Marsaglia, Xorshift RNGs,
/// 2003).
fn guesses() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Of ids that nobody minted, one in 2^43 would count as the victim's, and one in 4096 as
/// anybody's.
#[test]
fn a_neighbour_cannot_guess_an_id() {
    const GUESSES: u32 = 200_000;
    let key = key(3);
    let mut sealed = 0_u32;
    for guess in guesses().take(GUESSES as usize) {
        match key.ownership((guess >> 1).cast_signed(), "calico/cn:victim") {
            Ownership::Own => panic!("{guess:x} was guessed"),
            Ownership::Sealed => sealed += 1,
            Ownership::Foreign => {}
        }
    }
    // 49 on average.
    assert!((20..=85).contains(&sealed), "{sealed}");
}

/// The neighbour may have leases of his own made, as many as there are ids, and read the victim's
/// in the keys that are attached: no id of his is the victim's too, whatever the salt.
#[test]
fn a_neighbour_cannot_grind_an_id() {
    let key = key(4);
    for salt in 1..150_000 {
        let id = key.mint("calico/cn:neighbour", salt);
        assert_ne!(key.ownership(id, "calico/cn:victim"), Ownership::Own, "salt {salt}");
    }
}

/// Nor does he get one by taking ids apart that he has seen, his own and the victim's, and putting
/// the parts together anew.
#[test]
fn parts_of_ids_that_were_seen_make_no_new_one() {
    let key = key(5);
    let victims: Vec<i64> =
        (1..40).map(|salt| key.mint("calico/cn:victim", salt * 7_919)).collect();
    let seen: Vec<i64> = victims
        .iter()
        .copied()
        .chain((1..40).map(|salt| key.mint("calico/cn:neighbour", salt * 7_919)))
        .collect();
    let parts: Vec<_> = seen.iter().map(|id| parts(*id).unwrap()).collect();
    for (salt, _, _) in &parts {
        for (_, mark, seal) in &parts {
            let id = (i64::from(*salt) << 43) | (i64::from(*mark) << 12) | i64::from(*seal);
            assert!(
                key.ownership(id, "calico/cn:victim") != Ownership::Own || victims.contains(&id),
                "{id:x}"
            );
        }
    }
    for (at, one) in seen.iter().enumerate() {
        for other in &seen[..at] {
            let id = one ^ other ^ seen[0];
            assert!(
                key.ownership(id, "calico/cn:victim") != Ownership::Own || victims.contains(&id),
                "{id:x}"
            );
        }
    }
}

/// From ids that were seen nothing can be said about the next one: each bit of mark and seal is a
/// fair coin over the salts, and flips as one when a letter of the name, the salt or the key is
/// another.
#[test]
fn each_bit_of_mark_and_seal_is_a_fair_coin() {
    const TRIES: u32 = 4_000;
    let (ours, theirs) = (key(6), key(7));
    let mut ones = [[0_u32; 43]; 4];
    for salt in 1..=TRIES {
        let id = ours.mint("calico/cn:node-a", salt);
        let changed = [
            0,
            ours.mint("calico/cn:node-b", salt),
            ours.mint("calico/cn:node-a", salt + TRIES),
            theirs.mint("calico/cn:node-a", salt),
        ];
        for (ones, other) in ones.iter_mut().zip(changed) {
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += u32::from((id ^ other) >> bit & 1 == 1);
            }
        }
    }
    for (question, ones) in
        ["itself", "another name", "another salt", "another key"].iter().zip(ones)
    {
        for (bit, count) in ones.into_iter().enumerate() {
            assert!(is_fair(count, TRIES), "{question}: bit {bit} is 1 in {count} of {TRIES}");
        }
    }
}

/// A key file is taken to its last byte: with one that was cut or has a line end more, replicas do
/// not pretend to agree.
#[test]
fn replicas_agree_when_their_key_files_do() {
    let file: Vec<u8> = guesses().map(|guess| guess.to_le_bytes()[7]).take(48).collect();
    let replica = |bytes: &[u8]| LeaseKey::from_bytes(bytes).unwrap();
    let (one, two) = (replica(&file), replica(&file));
    let others = [
        replica(&file[..47]),
        replica(&[&file[..], b"\n"].concat()),
        replica(&[&file[1..], &file[..1]].concat()),
    ];
    for salt in 1..2_000 {
        let id = one.mint("calico/cn:node-a", salt);
        assert_eq!(two.mint("calico/cn:node-a", salt), id);
        assert_eq!(two.ownership(id, "calico/cn:node-a"), Ownership::Own);
        for other in &others {
            assert_ne!(other.ownership(id, "calico/cn:node-a"), Ownership::Own);
        }
    }
}
