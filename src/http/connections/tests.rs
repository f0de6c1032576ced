use super::book::PROBES;
use super::*;

/// All of whose newcomers have had their grace.
fn strict(limit: usize) -> Connections {
    Connections::with_grace(limit, Duration::ZERO)
}

fn admit(connections: &Connections) -> Connection {
    connections.admit_now().unwrap()
}

fn told(connection: &Connection) -> bool {
    *connection.0.told.borrow()
}

/// A request that shows a key.
fn begin_known(connection: &Connection) -> InWork {
    let in_work = connection.begin();
    assert!(in_work.admission().know());
    in_work
}

#[test]
fn who_is_idle_longest_gives_way() {
    let connections = strict(3);
    let [a, b, c] = std::array::from_fn(|_| admit(&connections));
    // `a` has just had a request, so that `b` waits longest; `c` has one in work.
    drop(a.begin());
    let in_work = c.begin();
    let d = admit(&connections);
    assert_eq!([&a, &b, &c, &d].map(told), [false, true, false, false]);
    let _e = admit(&connections);
    assert_eq!([&a, &b, &c, &d].map(told), [true, true, false, false]);
    drop(in_work);
    // Those who gave way hold nothing that they could give back.
    drop((a, b));
    let [_f, _g] = std::array::from_fn(|_| admit(&connections));
    assert!(!told(&c) && told(&d));
}

#[test]
fn strangers_give_way_before_those_who_have_shown_a_key() {
    let connections = strict(4);
    let [a, b, c, d] = std::array::from_fn(|_| admit(&connections));
    drop(begin_known(&a));
    let _known = begin_known(&b);
    let _unread = c.begin();
    // `d` is idle, `c` never reads its answer; then one stranger takes the place of another.
    let e = admit(&connections);
    assert_eq!([&a, &b, &c, &d].map(told), [false, false, false, true]);
    let f = admit(&connections);
    assert_eq!([&a, &b, &c, &e].map(told), [false, false, false, true]);
    let _unread_too = f.begin();
    let g = admit(&connections);
    assert_eq!([&a, &b, &c, &f].map(told), [false, false, true, false]);
    // Whoever shows a key takes a place of theirs as well, and only then that of one who is known and idle.
    drop(begin_known(&d));
    assert_eq!([&a, &b, &f, &g].map(told), [false, false, false, true]);
    let _known = begin_known(&d);
    let _known_too = begin_known(&g);
    assert_eq!([&a, &b, &f, &d].map(told), [false, false, true, false]);
    let _known_as_well = begin_known(&f);
    assert_eq!([&a, &b, &g, &d].map(told), [true, false, false, false]);
}

#[test]
fn a_newcomer_keeps_its_place_for_a_moment() {
    let connections = Connections::with_grace(2, Duration::from_secs(3600));
    let [a, b] = std::array::from_fn(|_| admit(&connections));
    // Whoever comes next waits, and takes no place of probes.
    assert!(connections.admit_now().is_none());
    drop(begin_known(&a));
    assert!(connections.admit_now().is_none());
    drop(begin_known(&b));
    // There is no stranger any more.
    let c = admit(&connections);
    assert!(told(&a) && connections.admit_now().is_none());
    // A key counts more than a grace.
    drop(begin_known(&a));
    assert_eq!([&a, &b, &c].map(told), [false, false, true]);
}

#[tokio::test]
async fn a_grace_ends_by_itself() {
    let connections = Connections::with_grace(1, Duration::from_millis(50));
    let first = connections.admit().await;
    let _next = connections.admit().await;
    assert!(told(&first));
}

#[test]
fn beyond_the_limit_there_are_places_for_probes_and_no_more() {
    let connections = strict(2);
    let busy: Vec<_> = (0..2).map(|_| admit(&connections)).map(|place| (begin_known(&place), place)).collect();
    assert!(busy.iter().all(|(in_work, _)| in_work.ordinary));
    let probes: Vec<_> = (0..PROBES).map(|_| admit(&connections)).map(|place| (place.begin(), place)).collect();
    assert!(probes.iter().all(|(in_work, _)| !in_work.ordinary));
    // Nor is there a place for who shows a key.
    assert!(!probes[0].0.admission().know());
    // Strangers take each other's, also when they are in work.
    let late = admit(&connections);
    assert!(told(&probes[1].1) && !told(&probes[0].1));
    assert!(!late.begin().ordinary);
    drop(busy);
    assert!(late.begin().ordinary);
}

#[test]
fn who_speaks_before_leaving_may_stay_if_there_is_a_place() {
    let connections = strict(1);
    let first = admit(&connections);
    let second = admit(&connections);
    assert!(told(&first));
    // The second is idle in its turn.
    assert!(first.begin().ordinary);
    assert_eq!([&first, &second].map(told), [false, true]);
}

#[test]
fn a_refusal_can_be_cut_short() {
    let connections = strict(1);
    let refused = admit(&connections);
    let in_work = refused.begin();
    let draining = in_work.admission().refused();
    let next = admit(&connections);
    assert!(told(&refused) && refused.is_in_work());
    drop((draining, in_work, refused));
    assert!(next.begin().ordinary);
    assert_eq!(connections.0.book().members.len(), 1);
}

#[test]
fn of_several_requests_the_last_leaves_the_connection_idle() {
    let connections = strict(1);
    let busy = admit(&connections);
    let [first, second, third] = std::array::from_fn(|_| begin_known(&busy));
    drop(first);
    // One is refused while another is in work.
    let draining = second.admission().refused();
    drop(second);
    let probe = admit(&connections);
    assert!(!told(&busy) && !probe.begin().ordinary);
    drop(draining);
    assert!(!told(&busy));
    drop(third);
    let next = admit(&connections);
    assert!(told(&busy) && next.begin().ordinary);
}
