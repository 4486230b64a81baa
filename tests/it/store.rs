//! What every database has to do: SQLite and a real PostgreSQL.

use tempfile::TempDir;
use tidegate::{
    budgets::Windows,
    domain::{
        id::RequestId,
        ledger::{Row, UsageState},
        model_name::ModelPattern,
        money::{Currency, Exchange, MOST, UNIT, Window},
        price::{Part, Parts, Price, PriceStep, Tariff},
        spending::Spender,
        usage::{PolledUsage, ServiceTier, Usage},
    },
    store::sql::{Cell, Database, DatabaseLocation, FILE, GroupBy, SettledRow, UsageQuery, columns},
};

use crate::support::database::Postgres;

/// Both databases, each empty, with the folder and the server that hold them.
async fn both_databases() -> (TempDir, Postgres, [DatabaseLocation; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await;
    let places = [DatabaseLocation::Sqlite(folder.path().join(FILE)), postgres.place()];
    (folder, postgres, places)
}

const PRICE: Price = Price { input: 1, cached: 2, output: 3, reasoning: 4, per_call: 5, ..Price::free(Currency::Cny) };

fn row(id: u8, state: UsageState) -> Row<'static> {
    let over = !state.is_replaceable();
    let mut bytes = [id; 16];
    // The start of the request, in milliseconds.
    bytes[..6].copy_from_slice(&u64::from(id).to_be_bytes()[2..]);
    Row {
        id: RequestId::from_bytes(bytes),
        state,
        endpoint: None,
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
        shown: None,
        reserved: Some(2000),
        price: Some(PRICE),
        terms: None,
        unpriced: Parts::default(),
        exchange: Exchange::default(),
        reserved_cost: Some(7 * UNIT),
        cost: over.then_some(UNIT + 5),
        estimated: state == UsageState::Partial,
        bytes_up: 10,
        bytes_down: u64::MAX,
        attempts: u64::from(over),
        first_byte_ms: None,
        took_ms: 1,
    }
}

#[tokio::test]
async fn a_row_is_written_once_and_only_an_open_row_changes() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let (open, exact, partial) = (row(1, UsageState::Open), row(1, UsageState::Exact), row(1, UsageState::Partial));
        for (given, changed) in [
            (vec![open], vec![(UsageState::Open, 1)]),
            (vec![open], vec![]),
            (vec![exact, row(2, UsageState::Open)], vec![(UsageState::Open, 1), (UsageState::Exact, 1)]),
            (vec![exact, open, partial], vec![]),
            (
                vec![row(9, UsageState::Open), row(9, UsageState::Exact), row(9, UsageState::Partial)],
                vec![(UsageState::Exact, 1)],
            ),
        ] {
            assert_eq!(database.store("here", &given).await.unwrap(), changed, "{place}");
        }
        // Open rows of other data folders stay open.
        assert_eq!(database.store("there", &[row(3, UsageState::Open)]).await.unwrap(), [(UsageState::Open, 1)]);
        assert_eq!(database.interrupt("here", 3).await.unwrap(), 1);
        assert_eq!(database.interrupt("here", 3).await.unwrap(), 0);
        // An interrupted row costs what was reserved: 1, 9 and 2.
        let spent = database.spent(Spender::Key, "team", 0, 100).await.unwrap();
        assert_eq!(spent, [2 * (UNIT + 5) + 7 * UNIT, 0], "{place}");
        // After a time they are interrupted, too: their own process has not settled them.
        assert_eq!(database.store("there", &[row(4, UsageState::Open)]).await.unwrap(), [(UsageState::Open, 1)]);
        assert_eq!(database.interrupt("here", 4).await.unwrap(), 1);
        // A request that was not sent leaves no row, and a settled row stays.
        database
            .forget(&[row(1, UsageState::Open).id, row(3, UsageState::Open).id, row(4, UsageState::Open).id])
            .await
            .unwrap();
        assert_eq!(database.spent(Spender::Key, "team", 0, 100).await.unwrap(), spent, "{place}");
        // The request did end, as a part of the journal shows that was found later.
        assert_eq!(database.store("here", &[row(2, UsageState::Interrupted)]).await.unwrap(), []);
        assert_eq!(database.store("here", &[row(2, UsageState::Unknown)]).await.unwrap(), [(UsageState::Unknown, 1)]);
        let spent = database.spent(Spender::Key, "team", 0, 100).await.unwrap();
        assert_eq!(spent, [3 * (UNIT + 5), 0], "{place}");
        database.close().await;
        // Rows that exist stay as they are.
        let mut database = Database::open(&place).await.unwrap();
        let many: Vec<_> = (10..=250).map(|id| row(id, UsageState::Exact)).collect();
        assert_eq!(database.store("here", &many).await.unwrap(), [(UsageState::Exact, 241)]);
        assert_eq!(database.store("here", &many).await.unwrap(), []);
        // Some of many rows are new.
        let more: Vec<_> = (5..=250).map(|id| row(id, UsageState::Exact)).collect();
        assert_eq!(database.store("here", &more).await.unwrap(), [(UsageState::Exact, 4)]);
        database.close().await;
    }
}

/// 1 CNY for a million tokens of input, 2 CNY for a million of output.
const MILLIONS: Price =
    Price { input: UNIT, cached: UNIT, output: 2 * UNIT, reasoning: 2 * UNIT, per_call: 5, ..PRICE };

/// The row of a background response with a cost of 7.
fn pending<'a>(id: u8, response: &'a str) -> Row<'a> {
    let (price, cost) = (Some(MILLIONS), Some(7 * UNIT));
    let usage = Usage::default();
    Row { response_id: Some(response), usage, price, cost, estimated: true, ..row(id, UsageState::Pending) }
}

/// The row of a call by the id.
fn by_id<'a>(id: u8, response: &'a str, usage: Usage) -> Row<'a> {
    let (endpoint, shown) = (Some("responses.retrieve"), Some(PolledUsage::new(usage)));
    let (price, cost, usage) = (None, Some(0), Usage::default());
    Row { endpoint, response_id: Some(response), shown, price, cost, usage, ..row(id, UsageState::Exact) }
}

fn used() -> Usage {
    let (input, output) = (Some(3_000_000), Some(500_000));
    Usage { input, output, reasoning: Some(1), total: Some(3_500_000), ..Usage::default() }
}

/// State, input, output, cost, and whether the cost is an estimate.
async fn row_of(database: &mut Database, id: u8) -> [Cell; 5] {
    let page = database.page(id.into(), u64::from(id) + 1, None).await.unwrap();
    ["state", "input_tokens", "output_tokens", "cost", "estimated"].map(|name| page[0].cell(name).clone())
}

#[tokio::test]
async fn calls_settle_a_pending_row_once_in_whichever_order_the_rows_arrive() {
    let (_folder, _postgres, places) = both_databases().await;
    let settled = |state, cost| SettledRow {
        state,
        upstream: "up".into(),
        upstream_model: Some("real".into()),
        unpriced: Parts::default(),
        key: Some("team".into()),
        group: Some("all".into()),
        began: 0,
        currency: Some(Currency::Cny),
        charged: 7 * UNIT,
        cost,
    };
    let exact = |began| SettledRow { began, ..settled(UsageState::Exact, 4 * UNIT + 5) };
    let partial = |began| SettledRow { began, ..settled(UsageState::Partial, 7 * UNIT) };
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        // The pending row, a call that shows the end, and two calls that also show the tokens.
        let orders: [&[usize]; 8] = [
            &[0, 1, 2, 3],
            &[0, 2, 1, 3],
            &[1, 0, 2, 2],
            &[1, 2, 0, 0],
            &[2, 1, 0, 3],
            &[2, 0, 1, 0],
            &[2, 3, 1, 0],
            &[0, 1, 0, 2],
        ];
        for (nth, order) in (10..).step_by(4).zip(orders) {
            let id = format!("resp_{nth}");
            let mine = pending(nth, &id);
            let rows = [
                mine,
                by_id(nth + 1, &id, Usage { input: Some(1), ..Usage::default() }),
                by_id(nth + 2, &id, used()),
                by_id(nth + 3, &id, used()),
            ];
            let mut found = Vec::new();
            for place in order {
                let rows = &rows[*place..=*place];
                database.store("here", rows).await.unwrap();
                found.extend(database.settle(rows).await.unwrap());
            }
            let began = u64::from(nth);
            let mut expected = vec![exact(began)];
            // If the call without tokens came first, the row was partial for a while.
            let [at, over, told] =
                [&[0][..], &[1], &[2, 3]].map(|any| order.iter().position(|one| any.contains(one)).unwrap());
            if at.max(over) < told {
                expected.insert(0, partial(began));
            }
            assert_eq!(found, expected, "{place} {order:?}");
            let row = row_of(&mut database, nth).await;
            let text = Cell::Text("exact".into());
            let counts = [used().input, used().output].map(|count| Cell::Count(count.unwrap()));
            let [input, output] = counts;
            assert_eq!(row, [text, input, output, Cell::Amount(4 * UNIT + 5), Cell::Flag(false)], "{place} {order:?}");
            // All rows again: nothing changes any more.
            assert_eq!(database.store("here", &rows).await.unwrap().iter().map(|(_, count)| count).sum::<u64>(), {
                4 - order.iter().collect::<std::collections::HashSet<_>>().len() as u64
            });
            assert_eq!(database.settle(&rows).await.unwrap(), []);
            assert_eq!(row_of(&mut database, nth).await, row, "{place} {order:?}");
        }
        // All in one batch.
        let batch = [by_id(100, "resp_a", used()), by_id(101, "resp_a", Usage::default()), pending(102, "resp_a")];
        database.store("here", &batch).await.unwrap();
        assert_eq!(database.settle(&batch).await.unwrap(), [exact(102)], "{place}");
        // A row that was taken for interrupted.
        database.store("here", &[row(110, UsageState::Open)]).await.unwrap();
        assert_eq!(database.interrupt("here", 0).await.unwrap(), 1);
        let late = [pending(110, "resp_b"), by_id(111, "resp_b", used())];
        database.store("here", &late).await.unwrap();
        assert_eq!(database.settle(&late).await.unwrap(), [exact(110)], "{place}");
        database.close().await;
    }
}

#[tokio::test]
async fn only_the_same_response_at_the_same_upstream_settles_a_pending_row() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let other = Row { upstream: Some("other"), ..by_id(2, "resp_1", used()) };
        let ended = Row { usage: Usage::default(), estimated: true, ..row(5, UsageState::Partial) };
        let rows =
            [pending(1, "resp_1"), other, by_id(3, "resp_2", used()), by_id(4, "resp_1", Usage::default()), ended];
        database.store("here", &rows).await.unwrap();
        // A response that was not made in the background was never pending.
        let settled = database.settle(&rows).await.unwrap();
        assert_eq!(settled.iter().map(|row| (row.state, row.began)).collect::<Vec<_>>(), [(UsageState::Partial, 1)]);
        // No call showed its tokens: it keeps its reservation as cost.
        let row = row_of(&mut database, 1).await;
        assert_eq!(
            (&row[0], &row[3], &row[4]),
            (&Cell::Text("partial".into()), &Cell::Amount(7 * UNIT), &Cell::Flag(true))
        );
        let total = &database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0];
        assert_eq!((total.requests, total.partial, total.pending, total.estimated), (2, 2, 0, 2), "{place}");

        // A response without a price, and one that no call asks for.
        let unpriced = Row { price: None, cost: None, estimated: false, reserved_cost: None, ..pending(6, "resp_6") };
        let forgotten = pending(7, "resp_7");
        let rows = [unpriced, by_id(8, "resp_6", used()), forgotten];
        database.store("here", &rows).await.unwrap();
        let settled = database.settle(&rows).await.unwrap();
        assert_eq!(settled.iter().map(|row| (row.currency, row.cost, row.charged)).collect::<Vec<_>>(), [(None, 0, 0)]);
        let row = row_of(&mut database, 6).await;
        assert_eq!((&row[0], &row[3]), (&Cell::Text("exact".into()), &Cell::None), "{place}");
        let total = &database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0];
        let counts = (total.requests, total.exact, total.partial, total.pending, total.unpriced, total.input);
        assert_eq!(counts, (4, 1, 2, 1, 1, 3_000_000), "{place}");
        database.close().await;
    }
}

#[tokio::test]
async fn rows_that_were_stored_and_not_settled_are_settled_by_the_next_start() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let ids: Vec<_> = (0..250).map(|nth| format!("resp_{nth}")).collect();
        for (nth, id) in (0..).zip(&ids) {
            let mut pending = pending(1, id);
            pending.id = RequestId::from_bytes([nth; 16]);
            database.store("lost", &[pending]).await.unwrap();
            let by_id = Row {
                id: RequestId::from_bytes([[nth; 8], [0xff; 8]].concat().try_into().unwrap()),
                ..by_id(2, id, used())
            };
            database.store("other", &[by_id]).await.unwrap();
        }
        let mut second = Database::open(&place).await.unwrap();
        let (one, other) = tokio::join!(database.settle_all(), second.settle_all());
        assert_eq!(one.unwrap().len() + other.unwrap().len(), 250, "{place}: each is settled by one of them");
        assert_eq!(database.settle_all().await.unwrap(), []);
        let total = &database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0];
        assert_eq!((total.exact, total.pending, total.cost), (250, 0, [250 * (4 * UNIT + 5), 0]), "{place}");
        database.close().await;
        second.close().await;
    }
}

#[tokio::test]
async fn the_spend_of_a_model_is_the_spend_of_the_rows_that_match_its_pattern() {
    let (_folder, _postgres, places) = both_databases().await;
    let names =
        ["gpt-5", "gpt-5-mini", "up/gpt-5", "other/gpt-5", "GPT-5", "通义千问", "up/通义千问", "gpt_5", "gpt-55%", ""];
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        // Each row costs a power of two, so that each sum tells its rows. The last row names no model.
        let asked = names.into_iter().map(Some).chain([None]);
        let rows = (1..).zip(asked).map(|(id, model)| Row { model, cost: Some(1 << id), ..row(id, UsageState::Exact) });
        let rows: Vec<_> = rows.collect();
        database.store("here", &rows).await.unwrap();
        for pattern in
            ["gpt-5", "gpt-5*", "gpt_5", "gpt_*", "%", "*", "up/*", "up/gpt-5", "通义*", "通义千问", "nothing"]
        {
            let pattern = ModelPattern(pattern.into());
            let matches = |row: &&Row<'_>| row.model.is_some_and(|model| pattern.matches(model, |name| name == "up"));
            let expected: u64 = rows.iter().filter(matches).filter_map(|row| row.cost).sum();
            let money = (Currency::Cny, Exchange::default());
            let spent =
                database.spent_by_origin(Spender::Key, "team", Some(&pattern), (0, u64::MAX), money).await.unwrap();
            assert_eq!(spent.get("here").copied().unwrap_or_default(), expected, "{place} {pattern:?}");
        }
        database.close().await;
    }
}

#[tokio::test]
async fn sums_are_exact_and_grouped_as_requested() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let day = 86_400_000;
        let at = |id: u8, millis: u64| {
            let mut bytes = [id; 16];
            bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
            Row { id: RequestId::from_bytes(bytes), ..row(id, UsageState::Exact) }
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
            Row { state: UsageState::Open, cost: None, ..at(6, 3 * day) },
            // A row that costs nothing only counts in the sums by endpoint.
            Row {
                endpoint: Some("responses.retrieve"),
                price: None,
                cost: Some(0),
                usage: Usage::default(),
                ..at(7, day)
            },
            Row { endpoint: Some("responses.input_tokens"), price: None, cost: Some(0), ..at(8, day) },
            Row { endpoint: Some("embeddings.create"), key: Some("other"), cost: Some(0), ..at(9, 2 * day) },
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
        let by_key = reader.usage(GroupBy::Key, 0, u64::MAX).await.unwrap();
        let names: Vec<_> = by_key.iter().map(|total| (total.name.as_deref(), total.requests, total.cost)).collect();
        assert_eq!(names, [(Some("other"), 3, [MOST, 0]), (Some("team"), 3, [UNIT + 5, 1])], "{place}");
        assert_eq!((by_key[1].unpriced, by_key[1].estimated, by_key[1].input), (1, 1, 1_000_000_000_006), "{place}");
        let by_day = reader.usage(GroupBy::Day, day + 1, 3 * day).await.unwrap();
        let days: Vec<_> = by_day.iter().map(|total| (total.name.as_deref().unwrap(), total.requests)).collect();
        assert_eq!(days, [("1970-01-02", 1), ("1970-01-03", 3)], "{place}");
        for by in [GroupBy::Group, GroupBy::Model, GroupBy::Upstream] {
            let sum: u64 = reader.usage(by, 0, u64::MAX).await.unwrap().iter().map(|total| total.requests).sum();
            assert_eq!(sum, 6, "{place} {by:?}");
        }
        let by_endpoint = reader.usage(GroupBy::Endpoint, 0, u64::MAX).await.unwrap();
        let names: Vec<_> =
            by_endpoint.iter().map(|total| (total.name.as_deref().unwrap(), total.requests, total.unpriced)).collect();
        let expected = [
            ("embeddings.create", 1, 0),
            ("responses.create", 5, 1),
            ("responses.input_tokens", 1, 0),
            ("responses.retrieve", 1, 0),
        ];
        assert_eq!(names, expected, "{place}");
    }
}

/// Everything that an answer may report.
fn full_usage() -> Usage {
    Usage {
        input: Some(300_000),
        cached: Some(1000),
        cache_write: Some(2),
        cache_write_1h: Some(3),
        input_audio: Some(4),
        input_image: Some(5),
        output: Some(60),
        reasoning: Some(7),
        output_audio: Some(8),
        output_image: Some(9),
        total: Some(300_060),
        image_tool_input: Some(10),
        image_tool_output: Some(11),
        web_searches: Some(12),
        audio_ms: Some(13),
        tier: Some(ServiceTier::Priority),
        reported_cost: Some(UNIT / 8),
    }
}

/// The columns of that usage, with the values of [`full_usage`].
fn full_usage_cells() -> Vec<(&'static str, Cell)> {
    let counts = [
        ("input_tokens", 300_000),
        ("cached_tokens", 1000),
        ("cache_write_tokens", 2),
        ("cache_write_1h_tokens", 3),
        ("input_audio_tokens", 4),
        ("input_image_tokens", 5),
        ("output_tokens", 60),
        ("reasoning_tokens", 7),
        ("output_audio_tokens", 8),
        ("output_image_tokens", 9),
        ("image_tool_input_tokens", 10),
        ("image_tool_output_tokens", 11),
        ("web_searches", 12),
        ("audio_ms", 13),
    ];
    let others = [("service_tier", Cell::Text("priority".into())), ("told_cost", Cell::Amount(UNIT / 8))];
    counts.map(|(name, count)| (name, Cell::Count(count))).into_iter().chain(others).collect()
}

#[tokio::test]
async fn all_billed_parts_are_in_the_row_whether_they_are_reported_at_once_or_later() {
    let (_folder, _postgres, places) = both_databases().await;
    // A price for everything but the image tool; twice as much above 272,000 tokens, and three times as much for
    // priority.
    let mut more = [Some(UNIT); 10];
    more[6] = None;
    more[7] = None;
    let base = MILLIONS.with_optional_rates(more);
    let step = |tier, above, factor| PriceStep { tier, above, price: base.with_tier_factor(factor * UNIT) };
    let tariff = Tariff::new(
        base,
        vec![
            step(None, 272_000, 2),
            step(Some(ServiceTier::Priority), 0, 3),
            step(Some(ServiceTier::Priority), 272_000, 6),
        ],
    );
    let (bill, terms) = (tariff.bill(&full_usage()), tariff.to_text());
    let mut unpriced = Parts::default();
    unpriced.insert(Part::ImageToolInput);
    unpriced.insert(Part::ImageToolOutput);
    assert_eq!((bill.price, bill.unpriced), (base.with_tier_factor(6 * UNIT), unpriced));
    let exchange = Exchange { cny_per_usd: Some(7 * UNIT) };
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let at_once = Row {
            usage: full_usage(),
            price: Some(bill.price),
            unpriced,
            exchange,
            cost: Some(bill.cost),
            estimated: true,
            ..row(1, UsageState::UnpricedPart)
        };
        let terms = Some(&*terms);
        let later = Row { price: Some(base), terms, exchange, ..pending(2, "resp_2") };
        let rows = [at_once, later, by_id(3, "resp_2", full_usage())];
        database.store("here", &rows).await.unwrap();
        let settled = database.settle(&rows).await.unwrap();
        assert_eq!(
            settled.iter().map(|row| (row.state, row.cost)).collect::<Vec<_>>(),
            [(UsageState::UnpricedPart, bill.cost)]
        );
        for row in [1, 2] {
            let page = database.page(row, row + 1, None).await.unwrap();
            let told = full_usage_cells().into_iter().chain([
                ("state", Cell::Text("unpriced_part".into())),
                ("unpriced_parts", Cell::Text("image_tool_input,image_tool_output".into())),
                ("price_input", Cell::Amount(6 * UNIT)),
                ("cny_per_usd", Cell::Amount(7 * UNIT)),
                ("cost", Cell::Amount(bill.cost)),
                ("cost_exchanged", Cell::Amount(bill.cost.div_ceil(7))),
                ("estimated", Cell::Flag(true)),
            ]);
            for (name, cell) in told {
                assert_eq!(*page[0].cell(name), cell, "{place} {row} {name}");
            }
            let Cell::Text(more) = page[0].cell("price_more") else { panic!("{:?}", page[0].cell("price_more")) };
            assert!(
                more.starts_with("cache_write=6,cache_write_1h=6,") && more.contains(",per_web_search=1,"),
                "{more}"
            );
        }
        let total = &database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0];
        assert_eq!((total.exact, total.unpriced_part, total.estimated), (0, 2, 2), "{place}");
        database.close().await;
    }
}

#[tokio::test]
async fn each_row_keeps_the_exchange_rate_of_its_settlement() {
    let (_folder, _postgres, places) = both_databases().await;
    let rate = |cny: u64| Exchange { cny_per_usd: Some(cny * UNIT) };
    let dollars = Price { currency: Currency::Usd, ..PRICE };
    let paid = |id, price, exchange, cost| Row {
        price: Some(price),
        exchange,
        cost: Some(cost),
        ..row(id, UsageState::Exact)
    };
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let none = Exchange::default();
        let rows = [
            paid(1, dollars, rate(7), 3),
            paid(2, dollars, rate(8), UNIT),
            // Each row is rounded up by itself: 1 nano-CNY is a seventh of a nano-dollar.
            paid(3, PRICE, rate(7), 1),
            paid(4, PRICE, rate(7), 1),
            // A row from before an exchange rate was set.
            paid(5, dollars, none, 10),
            // An open row costs its reservation if it is interrupted.
            Row { price: Some(dollars), exchange: rate(9), reserved_cost: Some(UNIT), ..row(6, UsageState::Open) },
            // A row without a price.
            Row { price: None, cost: None, ..row(7, UsageState::Exact) },
        ];
        database.store("here", &rows).await.unwrap();
        let mut spent = async |into, rate| {
            let sums = database.spent_by_origin(Spender::Key, "team", None, (0, 100), (into, rate)).await.unwrap();
            sums.get("here").copied().unwrap_or_default()
        };
        let cny = 3 * 7 + 8 * UNIT + 1 + 1;
        assert_eq!(spent(Currency::Cny, none).await, cny, "{place}");
        // Today's rate applies to rows without a rate.
        assert_eq!(spent(Currency::Cny, rate(100)).await, cny + 1000, "{place}");
        assert_eq!(spent(Currency::Usd, rate(100)).await, 3 + UNIT + 1 + 1 + 10, "{place}");
        let total = |exchange| UsageQuery { exchange, ..UsageQuery::default() };
        let sums = database.usage_of(&total(rate(100))).await.unwrap();
        assert_eq!((sums[0].cost, sums[0].in_all), ([2, 13 + UNIT], [cny + 1000, 15 + UNIT]), "{place}");
        assert_eq!(database.interrupt("here", 0).await.unwrap(), 1);
        let sums = database.usage_of(&total(rate(100))).await.unwrap();
        assert_eq!(sums[0].in_all, [cny + 1000 + 9 * UNIT, 15 + 2 * UNIT], "{place}");
        database.close().await;
    }
}

/// A row that began at this time.
fn at(number: u16, millis: u64) -> Row<'static> {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    Row { id: RequestId::from_bytes(bytes), ..row(1, UsageState::Exact) }
}

fn millis(text: &str) -> u64 {
    u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap()
}

#[tokio::test]
async fn days_weeks_and_months_begin_in_the_operators_time_zone() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        // Monday is 2026-11-30: 00:00 in Shanghai is 16:00 of Sunday in UTC. Kathmandu is 5:45 ahead of UTC.
        let rows: Vec<_> = (0..)
            .zip([
                "2026-11-29T15:59:59.999Z",
                "2026-11-29T16:00:00Z",
                "2026-11-30T15:59:59Z",
                "2026-11-30T18:14:59Z",
                "2026-12-01T05:00:00Z",
            ])
            .map(|(nth, time)| at(nth, millis(time)))
            .collect();
        database.store("here", &rows).await.unwrap();
        let other = Row { key: Some("other"), model: Some("small"), ..at(9, millis("2026-11-30T00:00:00Z")) };
        database.store("here", &[other]).await.unwrap();
        for (zone, by, expected) in [
            ("UTC", GroupBy::Day, vec![("2026-11-29", 2), ("2026-11-30", 2), ("2026-12-01", 1)]),
            ("Asia/Shanghai", GroupBy::Day, vec![("2026-11-29", 1), ("2026-11-30", 2), ("2026-12-01", 2)]),
            ("Asia/Kathmandu", GroupBy::Day, vec![("2026-11-29", 2), ("2026-11-30", 2), ("2026-12-01", 1)]),
            ("UTC", GroupBy::Week, vec![("2026-11-23", 2), ("2026-11-30", 3)]),
            ("Asia/Shanghai", GroupBy::Week, vec![("2026-11-23", 1), ("2026-11-30", 4)]),
            ("UTC", GroupBy::Month, vec![("2026-11", 4), ("2026-12", 1)]),
            ("Asia/Shanghai", GroupBy::Month, vec![("2026-11", 3), ("2026-12", 2)]),
        ] {
            let zone = jiff::tz::TimeZone::get(zone).unwrap();
            let asked = UsageQuery { by, zone, key: Some("team"), model: Some("smart"), ..UsageQuery::default() };
            let sums = database.usage_of(&asked).await.unwrap();
            let found: Vec<_> = sums.iter().map(|sum| (sum.name.as_deref().unwrap(), sum.requests)).collect();
            assert_eq!(found, expected, "{place} {asked:?}");
        }
        for (key, model, rows) in [
            (Some("other"), None, 1),
            (None, Some("smart"), 5),
            (Some("other"), Some("smart"), 0),
            (Some("nobody"), None, 0),
        ] {
            let asked = UsageQuery { key, model, ..UsageQuery::default() };
            let sum: u64 = database.usage_of(&asked).await.unwrap().iter().map(|sum| sum.requests).sum();
            assert_eq!(
                (sum, database.page_of(&asked, None).await.unwrap().len() as u64),
                (rows, rows),
                "{place} {asked:?}"
            );
        }
        database.close().await;
    }
}

#[tokio::test]
async fn old_rows_become_sums_per_day_and_no_sum_changes() {
    let (_folder, _postgres, places) = both_databases().await;
    let zone = jiff::tz::TimeZone::get("Asia/Shanghai").unwrap();
    let windows = Windows::new(zone.clone());
    let day_of = |moment| windows.at(Window::Day, 1, moment);
    let rate = |cny: u64| Exchange { cny_per_usd: Some(cny * UNIT) };
    let dollars = Price { currency: Currency::Usd, ..PRICE };
    let day = 86_400_000;
    // Midnight in Shanghai.
    let first = millis("2026-10-31T16:00:00Z");
    let before = first + 3 * day;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        let mut rows: Vec<Row<'_>> = (0..600_u16)
            .map(|nth| {
                let row = at(nth, first + u64::from(nth) * day / 100);
                let key = Some(if nth % 3 == 0 { "team" } else { "other" });
                match nth % 5 {
                    0 => Row { key, price: Some(dollars), exchange: rate(7), cost: Some(nth.into()), ..row },
                    1 => Row { key, price: Some(dollars), exchange: rate(8), cost: Some(MOST), ..row },
                    2 => Row { key, price: Some(dollars), cost: Some(5), group: None, ..row },
                    3 => Row { key, price: None, cost: None, model: None, ..row },
                    _ => Row { key, state: UsageState::Partial, estimated: true, ..row },
                }
            })
            .collect();
        // A row that may still change stays, however old it is.
        rows[7] = Row { price: Some(PRICE), cost: Some(9), ..Row { id: rows[7].id, ..pending(1, "resp_7") } };
        rows[8] = Row { id: rows[8].id, ..row(1, UsageState::Open) };
        // More rows in one millisecond than are summed up at once: they must go all the same.
        database.store("here", &rows).await.unwrap();
        let gone = Row { key: Some("team"), ..at(1000, first) };
        let late = Row { key: Some("team"), ..at(1001, before - 1) };
        database.store("there", &[gone, late]).await.unwrap();

        let asked = |by| UsageQuery { by, zone: zone.clone(), exchange: rate(9), ..UsageQuery::default() };
        let all = async |database: &mut Database| {
            let mut all = Vec::new();
            for by in [
                GroupBy::Key,
                GroupBy::Group,
                GroupBy::Model,
                GroupBy::Upstream,
                GroupBy::Endpoint,
                GroupBy::Day,
                GroupBy::Week,
                GroupBy::Month,
            ] {
                all.push(database.usage_of(&asked(by)).await.unwrap());
            }
            let mut spent = Vec::new();
            for (spender, name) in [(Spender::Key, "team"), (Spender::Key, "other"), (Spender::Group, "all")] {
                for span in [(0, u64::MAX), (first, first + day), (first + day, first + 4 * day)] {
                    for into in Currency::ALL {
                        spent.push(database.spent_by_origin(spender, name, None, span, (into, rate(9))).await.unwrap());
                    }
                }
            }
            (all, spent)
        };
        let expected = all(&mut database).await;
        // The open row of this data folder began on the first day: later rows stay until it is settled.
        let open = database.open_since("here").await.unwrap().unwrap();
        assert_eq!(open, rows[8].id.millis());
        let mut removed = 0;
        loop {
            let gone = database.sum_up("here", (before, open), day_of).await.unwrap();
            removed += gone;
            assert_eq!(all(&mut database).await, expected, "{place} after {removed}");
            if gone == 0 {
                break;
            }
        }
        // Removed are the rows before the open one, except the pending row, and the row of the lost data folder.
        assert_eq!(removed, 7 + 1, "{place}");
        assert_eq!(database.summed_up("here").await.unwrap(), rows[8].id.millis(), "{place}");
        while database.sum_up("here", (before, u64::MAX), day_of).await.unwrap() > 0 {
            assert_eq!(all(&mut database).await, expected, "{place}");
        }
        let left = database.page(0, u64::MAX, None).await.unwrap();
        assert_eq!(
            left.len(),
            300 + 1 + 1,
            "{place}: the days that are kept, the one that pends, the late one of others"
        );
        assert_eq!(*left[0].cell("state"), Cell::Text("pending".into()), "{place}");
        // A call that comes later still settles the pending row, and the sums follow.
        let shows = by_id(250, "resp_7", used());
        database.store("here", &[shows]).await.unwrap();
        assert_eq!(database.settle(&[shows]).await.unwrap().len(), 1, "{place}");
        while database.sum_up("here", (before, u64::MAX), day_of).await.unwrap() > 0 {}
        let known = database.known(&[rows[7].id, rows[599].id]).await.unwrap();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [rows[599].id], "{place}");
        database.close().await;
    }
}

#[tokio::test]
async fn rows_that_several_processes_sum_up_count_once() {
    let (_folder, _postgres, places) = both_databases().await;
    let windows = Windows::new(jiff::tz::TimeZone::UTC);
    let day_of = |moment| windows.at(Window::Day, 1, moment);
    for place in places {
        let mut one = Database::open(&place).await.unwrap();
        let rows: Vec<_> = (0..500).map(|nth| at(nth, 1000 + u64::from(nth))).collect();
        one.store("gone", &rows).await.unwrap();
        let mut other = Database::open(&place).await.unwrap();
        let before = 9 * 86_400_000;
        let (first, second) = tokio::join!(
            one.sum_up("one", (before, u64::MAX), day_of),
            other.sum_up("other", (before, u64::MAX), day_of)
        );
        // PostgreSQL may refuse one of the two, which tries again later.
        assert_eq!(first.unwrap_or_default() + second.unwrap_or_default(), 500, "{place}");
        let total = &one.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0];
        assert_eq!((total.requests, total.cost), (500, [500 * (UNIT + 5), 0]), "{place}");
        assert_eq!(one.page(0, u64::MAX, None).await.unwrap(), []);
        one.close().await;
        other.close().await;
    }
}

/// Opens the database four times at the same moment.
async fn open_at_once(place: &DatabaseLocation) {
    let opened =
        tokio::join!(Database::open(place), Database::open(place), Database::open(place), Database::open(place));
    for database in [opened.0, opened.1, opened.2, opened.3] {
        let mut database = database.unwrap();
        database.store("here", &[row(1, UsageState::Exact)]).await.unwrap();
        assert_eq!(database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap()[0].requests, 1);
    }
}

#[tokio::test]
async fn rows_are_read_in_pages_from_the_oldest_on() {
    let (_folder, _postgres, places) = both_databases().await;
    for place in places {
        let mut database = Database::open(&place).await.unwrap();
        // Several rows in each millisecond, more than two pages, written in another order.
        let at = |nth: u16| {
            let mut bytes = [0; 16];
            bytes[..6].copy_from_slice(&u64::from(nth / 3).to_be_bytes()[2..]);
            bytes[14..].copy_from_slice(&nth.to_be_bytes());
            Row { id: RequestId::from_bytes(bytes), ..row(1, UsageState::Exact) }
        };
        let rows: Vec<_> = (0..2500).rev().map(at).collect();
        database.store("here", &rows).await.unwrap();
        database
            .store("here", &[Row { id: RequestId::from_bytes([0xff; 16]), ..row(1, UsageState::Open) }])
            .await
            .unwrap();
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
async fn several_processes_may_open_an_empty_database_at_once() {
    let (folder, _postgres, places) = both_databases().await;
    for place in &places {
        Box::pin(open_at_once(place)).await;
    }
    // With one lock per migration instead of one lock around all of them, about every sixth try failed.
    for number in 0..40 {
        Box::pin(open_at_once(&DatabaseLocation::Sqlite(folder.path().join(format!("{number}.db"))))).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn sqlite_files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&DatabaseLocation::Sqlite(folder.path().join(FILE))).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    database.close().await;
}

#[tokio::test]
async fn texts_that_a_database_would_refuse_are_changed_so_that_it_accepts_them() {
    let (_folder, _postgres, places) = both_databases().await;
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
            ..row(1, UsageState::Exact)
        };
        assert_eq!(database.store("here", &[row]).await.unwrap(), [(UsageState::Exact, 1)], "{place}");
        let page = database.page(0, u64::MAX, None).await.unwrap();
        let texts = page[0].cells.iter().filter(|cell| **cell == Cell::Text("a?b????\u{4e2d}".into())).count();
        assert_eq!(texts, 8, "{place}: {page:?}");
        database.close().await;
    }
}
