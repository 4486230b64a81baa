//! What every database has to do alike: SQLite and a real PostgreSQL.

use tempfile::TempDir;
use tidegate::{
    domain::{
        id::RequestId,
        ledger::{Row, State},
        money::{Currency, MOST, UNIT},
        price::Price,
        spending::Spender,
        usage::Usage,
    },
    store::sql::{By, Cell, Database, FILE, Place, columns},
};

use crate::support::database::Postgres;

/// Both, each empty, with what they live in.
async fn both() -> (TempDir, Postgres, [Place; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await;
    let places = [Place::Sqlite(folder.path().join(FILE)), postgres.place()];
    (folder, postgres, places)
}

const PRICE: Price = Price { currency: Currency::Cny, input: 1, cached: 2, output: 3, reasoning: 4, per_call: 5 };

fn row(id: u8, state: State) -> Row<'static> {
    let over = !state.gives_way();
    let mut bytes = [id; 16];
    // When it began, in milliseconds.
    bytes[..6].copy_from_slice(&u64::from(id).to_be_bytes()[2..]);
    Row {
        id: RequestId::from_bytes(bytes),
        state,
        key: Some("team"),
        group: Some("all"),
        model: Some("smart"),
        upstream_model: Some("real"),
        upstream: Some("up"),
        credential: over.then_some("UP_KEY"),
        end: over.then_some("completed"),
        response_id: over.then_some("resp_1"),
        status: over.then_some(200),
        usage: if over { Usage { input: Some(3), output: Some(5), ..Usage::default() } } else { Usage::default() },
        reserved: Some(2000),
        price: Some(PRICE),
        reserved_cost: Some(7 * UNIT),
        cost: over.then_some(UNIT + 5),
        estimated: state == State::Partial,
        bytes_up: 10,
        bytes_down: u64::MAX,
        attempts: u64::from(over),
        first_byte_ms: None,
        took_ms: 1,
    }
}

#[tokio::test]
async fn a_row_is_written_once_and_only_an_open_one_changes() {
    let (_folder, _postgres, places) = both().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let (open, exact, partial) = (row(1, State::Open), row(1, State::Exact), row(1, State::Partial));
        for (given, changed) in [
            (vec![open], vec![(State::Open, 1)]),
            (vec![open], vec![]),
            (vec![exact, row(2, State::Open)], vec![(State::Open, 1), (State::Exact, 1)]),
            (vec![exact, open, partial], vec![]),
            (vec![row(9, State::Open), row(9, State::Exact), row(9, State::Partial)], vec![(State::Exact, 1)]),
        ] {
            assert_eq!(database.store("here", &given).await.unwrap(), changed, "{place}");
        }
        // What others have under way is none of ours.
        assert_eq!(database.store("there", &[row(3, State::Open)]).await.unwrap(), [(State::Open, 1)]);
        assert_eq!(database.interrupt("here", 3).await.unwrap(), 1);
        assert_eq!(database.interrupt("here", 3).await.unwrap(), 0);
        // It is charged with what was reserved: 1, 9 and 2.
        let spent = database.spent(Spender::Key, "team", 0, 100).await.unwrap();
        assert_eq!(spent, [2 * (UNIT + 5) + 7 * UNIT, 0], "{place}");
        // Until they are old: nobody else will say what became of them.
        assert_eq!(database.store("there", &[row(4, State::Open)]).await.unwrap(), [(State::Open, 1)]);
        assert_eq!(database.interrupt("here", 4).await.unwrap(), 1);
        // What was not sent after all leaves nothing, and what is over stays.
        database.forget(&[row(1, State::Open).id, row(3, State::Open).id, row(4, State::Open).id]).await.unwrap();
        assert_eq!(database.spent(Spender::Key, "team", 0, 100).await.unwrap(), spent, "{place}");
        // It ended after all, as a part of the journal that was found later says.
        assert_eq!(database.store("here", &[row(2, State::Interrupted)]).await.unwrap(), []);
        assert_eq!(database.store("here", &[row(2, State::Unknown)]).await.unwrap(), [(State::Unknown, 1)]);
        let spent = database.spent(Spender::Key, "team", 0, 100).await.unwrap();
        assert_eq!(spent, [3 * (UNIT + 5), 0], "{place}");
        database.close().await;
        // What is there is taken as it is.
        let mut database = Database::open(&place).await.unwrap();
        let many: Vec<_> = (10..=250).map(|id| row(id, State::Exact)).collect();
        assert_eq!(database.store("here", &many).await.unwrap(), [(State::Exact, 241)]);
        assert_eq!(database.store("here", &many).await.unwrap(), []);
        database.close().await;
    }
}

#[tokio::test]
async fn sums_are_exact_and_by_what_was_asked() {
    let (_folder, _postgres, places) = both().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let day = 86_400_000;
        let at = |id: u8, millis: u64| {
            let mut bytes = [id; 16];
            bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
            Row { id: RequestId::from_bytes(bytes), ..row(id, State::Exact) }
        };
        let dollars = Price { currency: Currency::Usd, ..PRICE };
        let rows = [
            at(1, day),
            Row { key: Some("other"), group: None, cost: Some(MOST), ..at(2, day + 1) },
            Row { key: Some("other"), group: None, cost: Some(MOST), ..at(3, 2 * day) },
            Row { price: Some(dollars), cost: Some(1), estimated: true, ..at(4, 2 * day) },
            Row {
                price: None,
                cost: None,
                usage: Usage { input: Some(u64::MAX), ..Usage::default() },
                ..at(5, 3 * day)
            },
            Row { state: State::Open, cost: None, ..at(6, 3 * day) },
        ];
        database.store("here", &rows).await.unwrap();
        let spent = async |database: &mut Database, spender, name: &'static str, from, to| {
            database.spent(spender, name, from, to).await.unwrap()
        };
        assert_eq!(spent(&mut database, Spender::Key, "team", 0, 9 * day).await, [UNIT + 5, 1], "{place}");
        assert_eq!(spent(&mut database, Spender::Key, "team", day + 1, 9 * day).await, [0, 1], "{place}");
        assert_eq!(spent(&mut database, Spender::Key, "team", day, 2 * day).await, [UNIT + 5, 0], "{place}");
        assert_eq!(spent(&mut database, Spender::Group, "all", 0, 9 * day).await, [UNIT + 5, 1], "{place}");
        assert_eq!(
            spent(&mut database, Spender::Key, "other", 0, 9 * day).await,
            [MOST, 0],
            "what is more is the most"
        );
        assert_eq!(spent(&mut database, Spender::Key, "nobody", 0, u64::MAX).await, [0, 0], "{place}");
        database.close().await;

        let mut reader = Database::open_to_read(&place).await.unwrap();
        let by_key = reader.usage(By::Key, 0, u64::MAX).await.unwrap();
        let names: Vec<_> = by_key.iter().map(|total| (total.name.as_deref(), total.requests, total.cost)).collect();
        assert_eq!(names, [(Some("other"), 2, [MOST, 0]), (Some("team"), 3, [UNIT + 5, 1])], "{place}");
        assert_eq!((by_key[1].unpriced, by_key[1].estimated, by_key[1].input), (1, 1, 1_000_000_000_006), "{place}");
        let by_day = reader.usage(By::Day, day + 1, 3 * day).await.unwrap();
        let days: Vec<_> = by_day.iter().map(|total| (total.name.as_deref().unwrap(), total.requests)).collect();
        assert_eq!(days, [("1970-01-02", 1), ("1970-01-03", 2)], "{place}");
        for by in [By::Group, By::Model, By::Upstream] {
            let sum: u64 = reader.usage(by, 0, u64::MAX).await.unwrap().iter().map(|total| total.requests).sum();
            assert_eq!(sum, 5, "{place} {by:?}");
        }
    }
}

/// Opens it four times in the same moment.
async fn open_at_once(place: &Place) {
    let opened =
        tokio::join!(Database::open(place), Database::open(place), Database::open(place), Database::open(place));
    for database in [opened.0, opened.1, opened.2, opened.3] {
        let mut database = database.unwrap();
        database.store("here", &[row(1, State::Exact)]).await.unwrap();
        assert_eq!(database.usage(By::Key, 0, u64::MAX).await.unwrap()[0].requests, 1);
    }
}

#[tokio::test]
async fn rows_come_page_by_page_the_oldest_first() {
    let (_folder, _postgres, places) = both().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        // Several of each millisecond, more than two pages, written in another order.
        let at = |nth: u16| {
            let mut bytes = [0; 16];
            bytes[..6].copy_from_slice(&u64::from(nth / 3).to_be_bytes()[2..]);
            bytes[14..].copy_from_slice(&nth.to_be_bytes());
            Row { id: RequestId::from_bytes(bytes), ..row(1, State::Exact) }
        };
        let rows: Vec<_> = (0..2500).rev().map(at).collect();
        database.store("here", &rows).await.unwrap();
        database.store("here", &[Row { id: RequestId::from_bytes([0xff; 16]), ..row(1, State::Open) }]).await.unwrap();
        let (mut found, mut pages, mut last) = (Vec::new(), Vec::new(), None);
        loop {
            let page = database.page(0, u64::MAX, last.as_ref()).await.unwrap();
            pages.push(page.len());
            found.extend(page.iter().map(|row| row.cell("id").clone()));
            let Some(row) = page.into_iter().next_back() else { break };
            last = Some(row);
        }
        let expected: Vec<_> = rows.iter().rev().map(|row| Cell::Text(row.id.to_string())).collect();
        assert_eq!((found, pages), (expected, vec![1000, 1000, 500, 0]), "{place}");
        let between = database.page(10, 12, None).await.unwrap();
        let times: Vec<_> = between.iter().map(|row| row.cell("time").clone()).collect();
        assert_eq!(times, [10, 10, 10, 11, 11, 11].map(Cell::Time), "{place}");
        let cell = |name| between[0].cell(name).clone();
        let text = |text: &str| Cell::Text(text.into());
        assert_eq!([cell("key"), cell("origin"), cell("currency")], ["team", "here", "CNY"].map(text));
        assert_eq!([cell("cost"), cell("price_call")], [UNIT + 5, 5].map(Cell::Amount));
        assert_eq!([cell("status"), cell("cached_tokens")], [Cell::Count(200), Cell::None]);
        assert_eq!((cell("estimated"), columns().count()), (Cell::Flag(false), between[0].cells.len()));
    }
}

#[tokio::test]
async fn several_may_open_an_empty_database_at_once() {
    let (folder, _postgres, places) = both().await;
    for place in &places {
        Box::pin(open_at_once(place)).await;
    }
    // With one lock a migration, in place of one around all of them, about every sixth try failed.
    for number in 0..40 {
        Box::pin(open_at_once(&Place::Sqlite(folder.path().join(format!("{number}.db"))))).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_their_owners() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&Place::Sqlite(folder.path().join(FILE))).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    database.close().await;
}

#[tokio::test]
async fn texts_that_a_database_would_not_take_are_made_such_that_it_does() {
    let (_folder, _postgres, places) = both().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let odd = Some("a\0b\n\u{1b}\u{7f}\u{85}\u{4e2d}");
        let row = Row {
            key: odd,
            group: odd,
            model: odd,
            upstream_model: odd,
            upstream: odd,
            credential: odd,
            end: odd,
            response_id: odd,
            ..row(1, State::Exact)
        };
        assert_eq!(database.store("here", &[row]).await.unwrap(), [(State::Exact, 1)], "{place}");
        let page = database.page(0, u64::MAX, None).await.unwrap();
        let texts = page[0].cells.iter().filter(|cell| **cell == Cell::Text("a?b????\u{4e2d}".into())).count();
        assert_eq!(texts, 8, "{place}: {page:?}");
        database.close().await;
    }
}
