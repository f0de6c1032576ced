use super::*;

fn told(connection: &Connection) -> bool {
    *connection.0.told.borrow()
}

#[test]
fn who_is_idle_longest_gives_way() {
    let connections = Connections::new(3);
    let [a, b, c] = std::array::from_fn(|_| connections.admit().unwrap());
    // `a` has just had a request, so that `b` waits longest; `c` has one in work.
    drop(a.begin());
    let in_work = c.begin();
    let d = connections.admit().unwrap();
    assert_eq!([&a, &b, &c, &d].map(told), [false, true, false, false]);
    let _e = connections.admit().unwrap();
    assert_eq!([&a, &b, &c, &d].map(told), [true, true, false, false]);
    drop(in_work);
    // Those who gave way hold nothing that they could give back.
    drop((a, b));
    let [_f, _g] = std::array::from_fn(|_| connections.admit().unwrap());
    assert!(!told(&c) && told(&d));
}

#[test]
fn beyond_the_limit_there_are_places_for_probes_and_no_more() {
    let connections = Connections::new(2);
    let busy: Vec<_> = (0..2).map(|_| connections.admit().unwrap()).map(|place| (place.begin(), place)).collect();
    assert!(busy.iter().all(|(in_work, _)| in_work.ordinary));
    let probes: Vec<_> =
        (0..PROBES).map(|_| connections.admit().unwrap()).map(|place| (place.begin(), place)).collect();
    assert!(probes.iter().all(|(in_work, _)| !in_work.ordinary));
    assert!(!connections.has_room() && connections.admit().is_none());
    // A probe that is answered makes room for another, and a request that is, for anything.
    drop(probes);
    assert!(connections.has_room());
    let late = connections.admit().unwrap();
    assert!(!late.begin().ordinary);
    drop(busy);
    assert!(late.begin().ordinary);
}

#[test]
fn who_speaks_before_leaving_may_stay_if_there_is_a_place() {
    let connections = Connections::new(1);
    let first = connections.admit().unwrap();
    let second = connections.admit().unwrap();
    assert!(told(&first));
    // The second is idle in its turn.
    assert!(first.begin().ordinary);
    assert_eq!([&first, &second].map(told), [false, true]);
}

#[test]
fn a_refusal_can_be_cut_short() {
    let connections = Connections::new(1);
    let refused = connections.admit().unwrap();
    let in_work = refused.begin();
    let draining = in_work.admission().refused();
    let next = connections.admit().unwrap();
    assert!(told(&refused) && refused.is_in_work());
    drop((draining, in_work, refused));
    assert!(next.begin().ordinary);
    assert_eq!(connections.0.book().members.len(), 1);
}

#[test]
fn of_several_requests_the_last_leaves_the_connection_idle() {
    let connections = Connections::new(1);
    let busy = connections.admit().unwrap();
    let [first, second, third] = std::array::from_fn(|_| busy.begin());
    drop(first);
    // One is refused while another is in work.
    let draining = second.admission().refused();
    drop(second);
    let probe = connections.admit().unwrap();
    assert!(!told(&busy) && !probe.begin().ordinary);
    drop(draining);
    assert!(!told(&busy));
    drop(third);
    let next = connections.admit().unwrap();
    assert!(told(&busy) && next.begin().ordinary);
}
