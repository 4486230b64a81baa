use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        money::{Currency, Exchange, Window},
        price::{Parts, Price},
        spending::{BudgetKey, Span, Spender},
        usage::{PolledUsage, Usage},
    },
    metering::polling,
    metrics::Metrics,
    store::{
        journal::JournalWriter,
        sql::{Database, DatabaseLocation, FILE, GroupBy, UsageTotal},
    },
};

fn open(id: u8) -> Row<'static> {
    Row {
        id: RequestId::from_bytes([id; 16]),
        state: UsageState::Open,
        endpoint: Some("responses.create"),
        key: Some("team"),
        group: None,
        model: Some("smart"),
        upstream_model: Some("real"),
        upstream: Some("up"),
        credential: None,
        end: None,
        response_id: None,
        status: None,
        usage: Usage::default(),
        shown: None,
        reserved: Some(2000),
        price: None,
        terms: None,
        unpriced: Parts::default(),
        exchange: Exchange::default(),
        reserved_cost: None,
        cost: None,
        estimated: false,
        bytes_up: 17,
        bytes_down: 0,
        attempts: 0,
        first_byte_ms: None,
        took_ms: 0,
    }
}

fn exact(id: u8) -> Row<'static> {
    let usage = Usage { input: Some(3), output: Some(5), ..Usage::default() };
    Row { state: UsageState::Exact, end: Some("completed"), status: Some(200), usage, attempts: 1, ..open(id) }
}

fn records(rows: &[Row<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    rows.iter().for_each(|row| journal::encode(row, &mut bytes));
    bytes
}

fn into(folder: &Path) -> FeedTarget {
    let (spending, clock, copy) = (Arc::default(), Clock::system(), folder.join("budgets.json"));
    let (polls, unpriced) = (polling(Duration::from_secs(5)).0, Metrics::default().unpriced);
    FeedTarget { place: place(folder), origin: "here".into(), spending, clock, copy, polls, keep: None, unpriced }
}

fn place(folder: &Path) -> DatabaseLocation {
    DatabaseLocation::Sqlite(folder.join(FILE))
}

/// A gateway's ledger, between a start and an end.
fn start(folder: &Path) -> (Arc<Journal>, Arc<LedgerStatus>, FeedThreads) {
    let condition = Arc::new(LedgerStatus::default());
    let (journal, found) =
        Journal::open(folder.join("journal"), 1, Arc::clone(&condition), &journal::SystemDisk).unwrap();
    let feeding = FeedThreads::start(into(folder), Arc::clone(&journal), found, Arc::clone(&condition)).unwrap();
    (journal, condition, feeding)
}

fn total(folder: &Path) -> UsageTotal {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut totals = runtime.block_on(async {
        let mut database = Database::open_to_read(&place(folder)).await.unwrap();
        database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()
    });
    totals.pop().unwrap_or_default()
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder.join("journal")).unwrap().count()
}

fn bytes(condition: &LedgerStatus) -> u64 {
    condition.journal_bytes.load(Ordering::Relaxed)
}

/// Requests 1 and 2 end, 3 is under way, 4 was not sent after all.
fn work() -> Vec<Row<'static>> {
    let unsent = Row { state: UsageState::Unknown, end: Some("client_gone"), ..open(4) };
    vec![open(1), open(2), exact(1), open(3), open(4), unsent, exact(2)]
}

#[test]
fn rows_of_a_killed_process_are_read_once_for_any_truncation() {
    let whole = records(&work());
    let ends: Vec<usize> = (0..=work().len()).map(|rows| records(&work()[..rows]).len()).collect();
    let cuts = ends.iter().flat_map(|end| [*end, (*end + 9).min(whole.len())]);
    for cut in cuts {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("journal/000000000007.journal");
        fs::create_dir(file.parent().unwrap()).unwrap();
        let left = &whole[..cut];
        let rows = ends.iter().filter(|end| **end <= cut).count() - 1;
        let seen = &work()[..rows];
        let ended = seen.iter().filter(|row| row.state == UsageState::Exact).count() as u64;
        let sent = seen.iter().filter(|row| row.state == UsageState::Open).count() as u64;
        let unsent = seen.iter().filter(|row| row.state == UsageState::Unknown).count() as u64;
        for time in 0..3 {
            fs::write(&file, left).unwrap();
            let (_, condition, feeding) = start(folder.path());
            feeding.end();
            let total = total(folder.path());
            let states = (total.requests, total.exact, total.interrupted, total.input);
            assert_eq!(states, (sent - unsent, ended, sent - ended - unsent, ended * 3), "cut at {cut}, time {time}");
            let counted: u64 = condition.rows.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            assert_eq!(counted, if time == 0 { sent - unsent } else { 0 }, "cut at {cut}, time {time}");
            assert_eq!((files(folder.path()), bytes(&condition), condition.waiting()), (0, 0, 0));
        }
    }
}

#[test]
fn a_damaged_file_is_read_up_to_the_damage_and_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journal/000000000001.journal");
    fs::create_dir(file.parent().unwrap()).unwrap();
    let mut damaged = records(&work());
    let at = records(&work()[..4]).len();
    damaged[at + 20] ^= 1;
    fs::write(&file, &damaged).unwrap();
    let (_, condition, feeding) = start(folder.path());
    feeding.end();
    let total = total(folder.path());
    assert_eq!((total.requests, total.exact, total.interrupted), (3, 1, 2));
    assert_eq!(fs::read(file.with_extension("damaged")).unwrap(), damaged);
    assert_eq!(bytes(&condition), 0);
}

#[test]
fn rows_of_a_running_process_are_read_and_its_files_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, condition, feeding) = start(folder.path());
    let mut writer = JournalWriter::new(Arc::clone(&journal));
    for row in work() {
        writer.write(&records(&[row])).unwrap();
    }
    feeding.end();
    // Open requests are carried over, so that the file could be deleted.
    let stored = total(folder.path());
    assert_eq!((stored.requests, stored.exact, stored.interrupted), (2, 2, 0));
    assert_eq!((files(folder.path()), bytes(&condition)), (0, 0));
    let (journal, _, feeding) = start(folder.path());
    let mut writer = JournalWriter::new(journal);
    writer.write(&records(&[open(5), exact(5)])).unwrap();
    feeding.end();
    let stored = total(folder.path());
    assert_eq!((stored.requests, stored.exact, stored.interrupted), (4, 3, 1));
}

#[test]
fn a_request_that_was_not_sent_leaves_no_row() {
    let unsent = Row { state: UsageState::Unknown, end: Some("client_gone"), ..open(4) };
    for files in [vec![vec![open(4)], vec![unsent]], vec![vec![open(4), unsent]], vec![vec![unsent]]] {
        let folder = tempfile::tempdir().unwrap();
        for rows in &files {
            // Open requests are carried over into the database, and their file is deleted.
            let (journal, _, feeding) = start(folder.path());
            JournalWriter::new(journal).write(&records(rows)).unwrap();
            feeding.end();
        }
        assert_eq!((total(folder.path()).requests, super::tests::files(folder.path())), (0, 0), "{files:?}");
    }
}

#[test]
fn spend_is_the_sum_of_the_rows_and_of_this_process() {
    let folder = tempfile::tempdir().unwrap();
    let account = BudgetKey {
        spender: Spender::Key,
        name: "team".into(),
        model: None,
        currency: Currency::Cny,
        window: Window::Total,
        span: Span { from: 0, to: u64::MAX },
    };
    // It counted 90 before it was killed, and had put down 60 of them.
    let copy = r#"[{"spender":"key","name":"team","currency":"CNY","window":"total","from":0,"to":18446744073709551615,"spent":90}]"#;
    fs::write(folder.path().join("budgets.json"), copy).unwrap();
    let price = Some(Price { per_call: 60, ..Price::free(Currency::Cny) });
    let row = Row { price, reserved_cost: Some(60), ..open(1) };
    fs::create_dir(folder.path().join("journal")).unwrap();
    fs::write(folder.path().join("journal/000000000001.journal"), records(&[row])).unwrap();
    let spending = Arc::<Spending>::default();
    let condition = Arc::new(LedgerStatus::default());
    let (journal, found) =
        Journal::open(folder.path().join("journal"), 1, Arc::clone(&condition), &journal::SystemDisk).unwrap();
    let into = FeedTarget { spending: Arc::clone(&spending), ..into(folder.path()) };
    let feeding = FeedThreads::start(into, Arc::clone(&journal), found, condition).unwrap();
    let counter = spending.counter(account, u64::MAX);
    assert_eq!(counter.spent(), 90, "until the ledger was asked");
    // A cost that is recorded at this moment counts as well.
    counter.settle(0, 7);
    feeding.end();
    assert_eq!(counter.spent(), 67);
}

#[test]
fn an_unavailable_database_blocks_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(FILE)).unwrap();
    let (journal, condition, feeding) = start(folder.path());
    JournalWriter::new(Arc::clone(&journal)).write(&records(&work())).unwrap();
    feeding.end();
    assert!(condition.database_fails.load(Ordering::Relaxed));
    assert_eq!(files(folder.path()), 1);
    fs::remove_dir(folder.path().join(FILE)).unwrap();
    let (_, condition, feeding) = start(folder.path());
    feeding.end();
    assert!(!condition.database_fails.load(Ordering::Relaxed));
    assert_eq!((total(folder.path()).exact, total(folder.path()).interrupted, files(folder.path())), (2, 1, 0));
}

/// The total spend of the key and of the group.
fn accounts() -> [BudgetKey; 2] {
    let account = |spender, name: &str| BudgetKey {
        spender,
        name: name.into(),
        model: None,
        currency: Currency::Cny,
        window: Window::Total,
        span: Span { from: 0, to: u64::MAX },
    };
    [account(Spender::Key, "team"), account(Spender::Group, "all")]
}

/// One process: it writes rows in so many files, counts what they are charged with, and ends. Returned is what it counted.
fn process(folder: &Path, files: &[Vec<Row<'_>>]) -> [u64; 2] {
    let condition = Arc::new(LedgerStatus::default());
    let (journal, found) =
        Journal::open(folder.join("journal"), 4, Arc::clone(&condition), &journal::SystemDisk).unwrap();
    let spending = Arc::<Spending>::default();
    let counters = accounts().map(|account| spending.counter(account, u64::MAX));
    let into = FeedTarget { spending, ..into(folder) };
    let feeding = FeedThreads::start(into, Arc::clone(&journal), found, condition).unwrap();
    for rows in files.iter().filter(|rows| !rows.is_empty()) {
        let mut writer = JournalWriter::new(Arc::clone(&journal));
        for row in rows {
            counters.iter().for_each(|counter| counter.settle(0, row.cost.unwrap_or_default()));
            writer.write(&records(&[*row])).unwrap();
        }
    }
    feeding.end();
    counters.map(|counter| counter.spent())
}

fn spent(folder: &Path) -> [u64; 2] {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut database = Database::open_to_read(&place(folder)).await.unwrap();
        let mut sums = [0; 2];
        for (account, sum) in accounts().iter().zip(&mut sums) {
            *sum = database.spent(account.spender, &account.name, 0, u64::MAX).await.unwrap()[0];
        }
        sums
    })
}

proptest! {
    // Each case is two processes with a database.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However rows of responses in the background and calls that show their tokens come in, and wherever the process ends in
    /// between: what is counted is what rows say, and rows say what was shown.
    #[test]
    fn counters_equal_the_sums_of_the_rows_at_any_time(
        charged in prop::collection::vec(0..1000_u64, 1..8),
        shows in prop::collection::vec((0..8_usize, prop::option::of(0..1000_u64)), 0..16),
        places in prop::collection::vec((0..2_usize, 0..3_usize, any::<u32>()), 24),
    ) {
        let price = Price { input: 1_000_000, ..Price::free(Currency::Cny) };
        let names: Vec<_> = (0..charged.len()).map(|nth| format!("resp_{nth}")).collect();
        let mine = |id: usize, response| Row {
            group: Some("all"), response_id: Some(response), attempts: 1, price: Some(price), ..open(u8::try_from(id).unwrap())
        };
        let made = names.iter().zip(&charged).enumerate().map(|(nth, (name, charged))| {
            Row { state: UsageState::Pending, cost: Some(*charged), estimated: true, ..mine(nth, name) }
        });
        // All calls for one response tell the same, where they tell anything.
        let told = |nth: usize| shows.iter().filter(|(of, _)| of % names.len() == nth).find_map(|(_, tokens)| *tokens);
        let shown = shows.iter().enumerate().map(|(nth, (of, tokens))| {
            let of = of % names.len();
            let usage = Usage { input: told(of).filter(|_| tokens.is_some()), output: Some(0), ..Usage::default() };
            let (endpoint, shown) = (Some("responses.retrieve"), Some(PolledUsage::new(usage)));
            Row { state: UsageState::Exact, endpoint, shown, cost: Some(0), price: None, ..mine(100 + nth, &names[of]) }
        });
        let mut rows: Vec<_> = made.chain(shown).zip(&places).collect();
        rows.sort_by_key(|(_, (_, _, order))| *order);
        let folder = tempfile::tempdir().unwrap();
        for time in 0..2 {
            let of = |file| rows.iter().filter(move |(_, place)| (place.0, place.1) == (time, file)).map(|(row, _)| *row).collect();
            let counted = process(folder.path(), &[of(0), of(1), of(2)]);
            prop_assert_eq!(counted, spent(folder.path()));
        }
        let expected: u64 = charged.iter().enumerate().map(|(nth, charged)| told(nth).unwrap_or(*charged)).sum();
        prop_assert_eq!(spent(folder.path()), [expected; 2]);
        let total = total(folder.path());
        let exact = (0..names.len()).filter(|nth| told(*nth).is_some()).count() as u64;
        prop_assert_eq!((total.requests, total.exact), (names.len() as u64, exact));
    }
}

#[test]
fn an_old_journal_does_not_restore_rows_that_are_in_the_daily_sums() {
    let folder = tempfile::tempdir().unwrap();
    let now = u64::try_from(Clock::system().since_epoch().as_millis()).unwrap();
    let day = 86_400_000;
    let at = |number: u8, began: u64| {
        let mut bytes = [number; 16];
        bytes[..6].copy_from_slice(&began.to_be_bytes()[2..]);
        RequestId::from_bytes(bytes)
    };
    let price = Some(Price { per_call: 60, ..Price::free(Currency::Cny) });
    let old = |number| Row { id: at(number, now - 10 * day), price, cost: Some(60), ..exact(number) };
    let rows = [old(1), old(2), Row { id: at(3, now), ..exact(3) }];
    let keeps =
        |folder: &Path| FeedTarget { keep: Some(Retention { days: 3, zone: jiff::tz::TimeZone::UTC }), ..into(folder) };
    let process = |rows: &[Row<'_>], before: &[Row<'_>]| {
        fs::create_dir_all(folder.path().join("journal")).unwrap();
        if !before.is_empty() {
            // The journal of a killed process.
            fs::write(folder.path().join("journal/000000000001.journal"), records(before)).unwrap();
        }
        let condition = Arc::new(LedgerStatus::default());
        let (journal, found) =
            Journal::open(folder.path().join("journal"), 1, Arc::clone(&condition), &journal::SystemDisk).unwrap();
        let feeding = FeedThreads::start(keeps(folder.path()), Arc::clone(&journal), found, condition).unwrap();
        if !rows.is_empty() {
            JournalWriter::new(journal).write(&records(rows)).unwrap();
        }
        feeding.end();
    };
    let rows_left = || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut database = Database::open_to_read(&place(folder.path())).await.unwrap();
            database.page(0, u64::MAX, None).await.unwrap().len()
        })
    };
    process(&rows, &[]);
    assert_eq!((rows_left(), total(folder.path()).requests), (3, 3), "an end does not sum up");
    // A start does, as soon as it is through with what was left; and again the same journal, and one row that was never stored.
    for _ in 0..2 {
        let condition = Arc::new(LedgerStatus::default());
        let (journal, found) =
            Journal::open(folder.path().join("journal"), 1, Arc::clone(&condition), &journal::SystemDisk).unwrap();
        let feeding = FeedThreads::start(keeps(folder.path()), Arc::clone(&journal), found, condition).unwrap();
        let began = Instant::now();
        while rows_left() > 1 {
            assert!(began.elapsed() < Duration::from_secs(30), "old rows stay");
            thread::sleep(Duration::from_millis(20));
        }
        feeding.end();
        drop(journal);
        process(&[], &rows);
        let stored = total(folder.path());
        assert_eq!((rows_left(), stored.requests, stored.cost), (1, 3, [120, 0]));
    }
}
