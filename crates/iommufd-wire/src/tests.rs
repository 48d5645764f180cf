use super::*;
use proptest::prelude::*;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

fn pair() -> (rustix::fd::OwnedFd, rustix::fd::OwnedFd) {
    net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn requests() -> impl Strategy<Value = Request> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let words = (any::<u64>(), any::<u64>(), any::<u64>());
    let halves = (any::<u32>(), inline());
    (0..11, words, halves, flags).prop_map(|(kind, (a, b, c), (d, e), (f, g, h))| match kind {
        0 => Request::Hello {
            version: d,
            image: a,
            parent: b,
        },
        1 => Request::Open,
        2 => Request::Ioctl {
            handle: a,
            request: d,
            argument: b,
            content: e,
            privileges: (c % 2 == 0).then_some(Privileges {
                capabilities: Capabilities {
                    ipc_lock: f,
                    sys_resource: g,
                    sys_rawio: h,
                },
                lockable: c,
            }),
        },
        3 => Request::Read {
            handle: a,
            address: b,
            length: c,
        },
        4 => Request::Write {
            handle: a,
            address: b,
            length: c,
        },
        5 => Request::Map {
            handle: a,
            offset: b,
            length: c,
            shared: f,
            write: g,
            execute: h,
        },
        6 => Request::Unmap { mapping: a },
        7 => Request::Share { length: a },
        8 => Request::Status { process: d },
        9 => Request::Sync,
        _ => Request::File { errno: d as u16 },
    })
}

fn inline() -> impl Strategy<Value = Inline> {
    let runs = proptest::collection::vec(
        (0..INLINE, proptest::collection::vec(any::<u8>(), 0..40)),
        0..4,
    );
    runs.prop_map(|runs| {
        let mut inline = Inline::default();
        for (at, bytes) in runs {
            inline.set(at, &bytes);
        }
        inline
    })
}

fn file() -> impl Strategy<Value = Option<File>> {
    let place = prop_oneof![Just(Place::Value), any::<u64>().prop_map(Place::At)];
    let file = (place, any::<bool>()).prop_map(|(place, close_on_exec)| File {
        place,
        close_on_exec,
    });
    proptest::option::of(file)
}

fn replies() -> impl Strategy<Value = Reply> {
    let outcome = prop_oneof![any::<u64>().prop_map(Ok), (1..u16::MAX).prop_map(Err)];
    prop_oneof![
        (outcome, file(), file(), any::<bool>(), inline()).prop_map(
            |(outcome, first, second, take, written)| {
                Reply::Done {
                    outcome,
                    files: [first, second],
                    take,
                    written,
                }
            }
        ),
        any::<(u64, bool)>().prop_map(|(image, no_huge_pages)| Reply::Welcome {
            image,
            no_huge_pages,
        }),
        any::<(u64, u64)>().prop_map(|(pinned, locked)| Reply::Pins { pinned, locked }),
        any::<i32>().prop_map(|fd| Reply::AskFile { fd }),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_out_as_it_went_in(request in requests()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn a_reply_comes_out_as_it_went_in(reply in replies()) {
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    /// Nothing is overlooked in a message: only what encodes to it decodes from it.
    #[test]
    fn any_bytes_are_a_message_or_refused(
        kind in 0..12u64,
        rest in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 56),
        inline in inline(),
        lie in proptest::option::of((0..MESSAGE_BYTES, any::<u8>())),
    ) {
        let ioctl = Request::Ioctl {
            handle: 0,
            request: 0,
            argument: 0,
            content: inline,
            privileges: None,
        };
        let mut message = [&kind.to_ne_bytes()[..], &rest, &ioctl.encode()[64..]].concat();
        if let Some((at, byte)) = lie
            && let Some(place) = message.get_mut(at)
        {
            *place = byte;
        }
        if let Ok(request) = Request::decode(&message) {
            prop_assert_eq!(&request.encode()[..], &message[..]);
        }
        if let Ok(reply) = Reply::decode(&message) {
            prop_assert_eq!(&reply.encode()[..], &message[..]);
        }
    }
}

#[test]
fn a_message_of_another_size_is_refused() {
    let message = Request::Sync.encode();
    assert_eq!(Request::decode(&message[1..]), Err(Malformed));
    assert_eq!(Request::decode(&[]), Err(Malformed));
    assert_eq!(Reply::decode(&[0; MESSAGE_BYTES + 1]), Err(Malformed));
}

#[test]
fn an_error_never_reads_as_a_success() {
    let reply = Reply::done(Err(0));
    assert_eq!(Reply::decode(&reply.encode()), Ok(Reply::done(Err(1))));
}

#[test]
fn a_socket_tells_the_name_of_its_other_end() {
    let (ours, theirs) = pair();
    assert_eq!(Name::of_peer(theirs.as_fd()), None, "not bound");
    let name = Name {
        server: u64::from(std::process::id()) << 32 | 0x7e57,
        handle: 7,
    };
    net::bind(&ours, &name.address().unwrap()).unwrap();
    assert_eq!(Name::of_peer(theirs.as_fd()), Some(name));
    assert_eq!(Name::of_peer(ours.as_fd()), None);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(Name::of_peer(file.as_fd()), None);
}

#[test]
fn files_come_with_a_message_and_a_hang_up_is_seen() {
    let (ours, theirs) = pair();
    let file = std::fs::File::open("/dev/null").unwrap();
    send(
        &ours,
        &Request::Sync.encode(),
        &[file.as_fd(), ours.as_fd()],
    )
    .unwrap();
    let incoming = receive(&theirs).unwrap().unwrap();
    assert_eq!(Request::decode(incoming.message()), Ok(Request::Sync));
    assert!(incoming.files.iter().all(Option::is_some));
    assert!(incoming.sender.is_none());
    drop((incoming, ours));
    assert!(receive(&theirs).unwrap().is_none());
}

#[test]
fn a_message_that_is_too_long_is_an_error() {
    let (ours, theirs) = pair();
    send(&ours, &[1; MESSAGE_BYTES + 1], &[]).unwrap();
    assert_eq!(receive(&theirs).unwrap_err(), Errno::MSGSIZE);
}

#[test]
fn the_kernel_says_who_sent_a_message() {
    let (ours, theirs) = pair();
    net::sockopt::set_socket_passcred(&theirs, true).unwrap();
    send(&ours, &Request::Open.encode(), &[]).unwrap();
    let sender = receive(&theirs).unwrap().unwrap().sender.unwrap();
    assert_eq!(
        sender.pid.as_raw_nonzero().get().cast_unsigned(),
        std::process::id()
    );
}

#[test]
fn the_server_may_ask_for_files_before_it_answers() {
    let (ours, theirs) = pair();
    let server = std::thread::spawn(move || {
        let request = receive(&ours).unwrap().unwrap();
        assert_eq!(Request::decode(request.message()), Ok(Request::Open));
        send(&ours, &Reply::AskFile { fd: 3 }.encode(), &[]).unwrap();
        let answer = receive(&ours).unwrap().unwrap();
        assert_eq!(
            Request::decode(answer.message()),
            Ok(Request::File { errno: 9 })
        );
        send(&ours, &Reply::AskFile { fd: 4 }.encode(), &[]).unwrap();
        let answer = receive(&ours).unwrap().unwrap();
        assert_eq!(
            Request::decode(answer.message()),
            Ok(Request::File { errno: 0 })
        );
        assert!(answer.files[0].is_some());
        send(&ours, &Reply::done(Ok(5)).encode(), &[]).unwrap();
    });
    let file = std::fs::File::open("/dev/null").unwrap();
    let find = |fd| (fd == 4).then(|| file.as_fd());
    let (reply, _) = ask(&theirs, &Request::Open, &[], find).unwrap();
    assert_eq!(reply, Reply::done(Ok(5)));
    server.join().unwrap();
    let gone = ask(&theirs, &Request::Sync, &[], |_| None).unwrap_err();
    assert!([Errno::PIPE, Errno::CONNRESET].contains(&gone), "{gone}");
}

#[test]
fn inline_bytes_come_in_runs_and_stay_within() {
    let mut inline = Inline::default();
    assert!(inline.set(0, &[1, 2]) && inline.set(4, &[3]) && inline.set(127, &[4]));
    assert!(!inline.set(127, &[5, 6]) && !inline.set(usize::MAX, &[7]));
    assert!(inline.set(9, &[]));
    let runs: Vec<_> = inline.runs().collect();
    assert_eq!(runs, [(0, &[1, 2][..]), (4, &[3]), (127, &[4])]);
    assert_eq!(inline.length(), 2);
    let mut whole = Inline::default();
    assert!(whole.set(0, &[9; INLINE]));
    assert_eq!((whole.length(), whole.runs().count()), (INLINE, 1));
    assert_eq!(Inline::default().runs().count(), 0);
}
