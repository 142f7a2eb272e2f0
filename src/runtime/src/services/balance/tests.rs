use super::*;
use model::Protocol;
use proptest::prelude::*;
use std::net::SocketAddrV4;

fn load(open: u32, coming: u32) -> Load {
    Load { open, coming }
}

#[test]
fn who_has_the_fewest_gets_the_next() {
    assert_eq!(share(&[], 5), Vec::<usize>::new());
    assert_eq!(share(&[7], 0), [1]);
    // Nothing comes: only those that have the fewest.
    assert_eq!(share(&[1, 0, 1], 0), [0, 1, 0]);
    assert_eq!(share(&[2, 2, 9], 0), [1, 1, 0]);
    // Equal ones: even, however many come.
    for coming in [0, 1, 2, 100, 1_000_000] {
        assert_eq!(share(&[4, 4, 4], coming), [1, 1, 1], "{coming} coming");
    }
    // So many that the others catch up.
    assert_eq!(share(&[0, 10, 10], 3), [1, 0, 0]);
    assert_eq!(share(&[0, 6, 6], 10), [4, 1, 1]);
    // Many and short ones: a difference that is small to them changes nothing.
    assert_eq!(share(&[3, 5, 4], 1000), [1, 1, 1]);
}

#[test]
fn turns_are_apart() {
    assert_eq!(turns(&[load(0, 0), load(0, 0), load(0, 0)]), [0, 1, 2]);
    assert_eq!(turns(&[load(6, 0), load(0, 10), load(6, 0)]), [1, 0, 1, 1, 2, 1]);
    assert_eq!(turns(&[load(1, 0), load(0, 0)]), [1]);
    assert_eq!(turns(&[]), Vec::<usize>::new());
}

fn at(number: u8) -> Place {
    (Protocol::Tcp, SocketAddrV4::new([10, 45, 1, number].into(), 8080))
}

fn flow(number: u8, id: u32, alive: bool) -> Flow {
    Flow::example(at(number), id, alive)
}

#[test]
fn a_look_counts_what_is_open_and_what_has_come_since_the_last() {
    let mut balance = Balance::default();
    let flows = [flow(2, 1, true), flow(2, 2, true), flow(2, 3, false), flow(3, 4, true)];
    balance.look(&flows.iter().collect::<Vec<_>>());
    assert_eq!(balance.loads, [(at(2), load(2, 0)), (at(3), load(1, 0))].into());
    // Eight come and two of them have ended already; one ends.
    let more = (5..13).map(|id| flow(3, id, id > 6));
    let flows: Vec<Flow> = flows[1..].iter().cloned().chain(more).collect();
    balance.look(&flows.iter().collect::<Vec<_>>());
    assert_eq!(balance.loads, [(at(2), load(1, 0)), (at(3), load(7, 8))].into());
    // None comes any more: that is believed bit by bit.
    let expected: Vec<u32> = (0..4)
        .map(|_| {
            balance.look(&flows.iter().collect::<Vec<_>>());
            balance.loads[&at(3)].coming
        })
        .collect();
    assert_eq!(expected, [4, 2, 1, 0]);
    balance.look(&[]);
    assert_eq!(balance.loads, Loads::new());
}

proptest! {
    #[test]
    fn shares_are_fair(
        open in proptest::collection::vec(0_u32..50_000, 1..40),
        coming in prop_oneof![0_u64..50, 0_u64..100_000],
    ) {
        let shares = share(&open, coming);
        prop_assert_eq!(shares.len(), open.len());
        // Somebody gets the next one, and whoever has the fewest is among them.
        let fewest = open.iter().min().unwrap();
        for (own, share) in open.iter().zip(&shares) {
            prop_assert!(own != fewest || *share > 0, "{open:?}: {shares:?}");
        }
        for (a, share_a) in open.iter().zip(&shares) {
            for (b, share_b) in open.iter().zip(&shares) {
                prop_assert!(a != b || share_a == share_b, "equal ones get the same: {open:?}: {shares:?}");
                prop_assert!(a >= b || share_a >= share_b, "fewer get no less: {open:?}: {shares:?}");
            }
        }
        prop_assert!(shares.iter().sum::<usize>() <= TURNS + open.len());
        // Everybody's turns are as many as that.
        let turns = interleave(&shares);
        for (at, share) in shares.iter().enumerate() {
            prop_assert_eq!(turns.iter().filter(|turn| **turn == at).count(), *share);
        }
    }

    /// The order is what giving one by one to the one with the fewest comes to.
    #[test]
    fn shares_are_those_of_one_by_one(
        open in proptest::collection::vec(0_u32..12, 2..6),
        coming in 0_u64..12,
    ) {
        let level = level(&open, coming);
        let after: Vec<u64> = open.iter().map(|own| level.max(u64::from(*own))).collect();
        let mut one_by_one: Vec<u64> = open.iter().map(|own| u64::from(*own)).collect();
        for _ in 0..coming {
            let next = (0..open.len()).min_by_key(|at| one_by_one[*at]).unwrap();
            one_by_one[next] += 1;
        }
        // The last round is not begun with some only.
        for (own, after) in one_by_one.iter().zip(&after) {
            prop_assert!(own <= after && after - own <= 1, "{open:?} and {coming}: {after}, {own}");
        }
    }
}
