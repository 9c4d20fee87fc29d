use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> LeaseKey {
    LeaseKey::from_bytes(&[byte; MIN_KEY_BYTES]).unwrap()
}

proptest! {
    #[test]
    fn an_id_is_positive_and_owned_on_every_replica(name in ".*", other in ".*", salt: u32) {
        let id = key(1).mint(&name, salt);
        prop_assert!(id > 0);
        prop_assert_eq!(key(1).ownership(id, &name), Ownership::Own);
        prop_assert_eq!(key(1).mint(&name, salt), id);
        if name != other {
            prop_assert_eq!(key(1).ownership(id, &other), Ownership::Sealed);
        }
    }

    #[test]
    fn an_id_with_one_bit_flipped_is_not_owned(salt: u32, bit in 0_u32..64) {
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
fn under_another_key_no_id_is_owned() {
    let (ours, theirs) = (key(1), key(2));
    let ids = (0..20_000).map(|salt| theirs.mint("a", salt));
    let sealed = ids
        .map(|id| ours.ownership(id, "a"))
        .inspect(|&whose| assert_ne!(whose, Ownership::Own))
        .filter(|&whose| whose == Ownership::Sealed)
        .count();
    // 20,000 / 4096 = 4.9 are expected. Keys and salts are fixed, so the result never changes.
    assert!(sealed < 20, "{sealed}");
}

#[test]
fn each_salt_gives_another_id_and_0_is_replaced_by_1() {
    let mut ids: Vec<i64> = (1..5_000).map(|salt| key(1).mint("a", salt)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4_999);
    assert_eq!(key(1).mint("a", 0), key(1).mint("a", 1));
    assert_eq!(key(1).mint("a", 1 << 20), key(1).mint("a", 1));
}

#[test]
fn ids_of_another_form_are_foreign() {
    for id in [0, 1, -1, i64::MIN, (1 << 43) - 1, 0x7ab] {
        assert_eq!(key(1).ownership(id, "a"), Ownership::Foreign, "{id}");
    }
}

#[test]
fn refuses_a_short_key_and_never_displays_a_key() {
    let error = LeaseKey::from_bytes(&[1; 31]).unwrap_err();
    assert_eq!(error.to_string(), "a lease key needs at least 32 random bytes, this one has 31");
    assert_eq!(format!("{:?}", key(9)), "LeaseKey(..)");
    let (one, two) = (LeaseKey::random().unwrap(), LeaseKey::random().unwrap());
    assert_ne!(one.mint("a", 1), two.mint("a", 1));
}

/// Bits that depend on the whole input look like coin tosses: in `tries` tosses, the share of ones
/// is within five standard deviations of a half.
fn is_fair(ones: u32, tries: u32) -> bool {
    f64::from(ones.abs_diff(tries / 2)) <= 5.0 * f64::from(tries).sqrt() / 2.0
}

/// Pseudorandom numbers, the same in each run (xorshift64*; George Marsaglia, Xorshift RNGs, 2003).
fn guesses() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// Of random ids, 1 in 2^43 passes for the victim's and 1 in 4096 for a sealed one.
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

/// The neighbour may create leases until he has used every salt, and see the victim's ids in
/// attached keys. None of his ids passes for the victim's, whatever the salt.
#[test]
fn a_neighbour_cannot_grind_an_id() {
    let key = key(4);
    for salt in 1..150_000 {
        let id = key.mint("calico/cn:neighbour", salt);
        assert_ne!(key.ownership(id, "calico/cn:victim"), Ownership::Own, "salt {salt}");
    }
}

/// He does not get one either by recombining the parts of ids that he has seen, his own and the
/// victim's.
#[test]
fn recombined_parts_of_ids_are_not_owned() {
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

/// Known ids say nothing about the next one: each bit of mark and seal looks like a coin toss over
/// the salts, and flips like one when a letter of the name, the salt or the key changes.
#[test]
fn each_bit_of_mark_and_seal_is_unbiased() {
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

/// A key file is used to its last byte: replicas whose files differ by a cut or an extra line end
/// do not agree.
#[test]
fn replicas_agree_if_their_key_files_are_equal() {
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
