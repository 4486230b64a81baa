//! `encrypted_content`: what a provider gives its client to keep, and opens only for the account it was made for.

use data_encoding::BASE64URL_NOPAD;

use super::account::Account;

/// How it begins; the original's begins so too. invented: what follows, in base64, is `simulator/PROVIDER/ACCOUNT/TURN/ID`,
/// so that one account refuses what another was given, as the real ones do.
const START: &str = "gAAAAAB";

/// What is sealed: the turn it was made in, and the id of its item.
pub(super) fn seal(account: &Account, turn: u64, id: &str) -> String {
    let content = format!("{}{turn}/{id}", owner(account));
    format!("{START}{}", BASE64URL_NOPAD.encode(content.as_bytes()))
}

/// The turn that `sealed` was made in, if it was made for this account.
pub(super) fn open(account: &Account, sealed: &str) -> Option<u64> {
    let content = BASE64URL_NOPAD.decode(sealed.strip_prefix(START)?.as_bytes()).ok()?;
    let (turn, _) = std::str::from_utf8(&content).ok()?.strip_prefix(&owner(account))?.split_once('/')?;
    turn.parse().ok()
}

fn owner(account: &Account) -> String {
    format!("simulator/{}/{}/", account.personality.name(), account.name)
}

#[cfg(test)]
mod tests {
    use super::super::personality::Personality;
    use super::*;

    #[test]
    fn opens_for_its_account_only() {
        let account = |personality, name: &str| Account { personality, name: name.into(), is_named: true };
        let sealed = seal(&account(Personality::Dmxapi, "a"), 3, "rs_1");
        assert!(sealed.starts_with("gAAAAAB"));
        assert_eq!(open(&account(Personality::Dmxapi, "a"), &sealed), Some(3));
        assert_eq!(open(&account(Personality::Dmxapi, "b"), &sealed), None);
        assert_eq!(open(&account(Personality::Acedata, "a"), &sealed), None);
        for other in ["", "gAAAAAB", "nonsense", &sealed[..sealed.len() - 9], &sealed[7..]] {
            assert_eq!(open(&account(Personality::Dmxapi, "a"), other), None, "{other}");
        }
    }
}
