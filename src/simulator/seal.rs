//! `encrypted_content`: state that a provider gives to its client, and accepts back only for the account that it was
//! made for.

use data_encoding::BASE64URL_NOPAD;

use super::account::ProviderAccount;

/// The prefix, as in the original API. invented: the rest is, in base64, `simulator/PROVIDER/ACCOUNT/TURN/ID`. Thus one
/// account refuses the content of another, as real providers do.
const START: &str = "gAAAAAB";

/// Seals the turn and the id of an item.
pub(super) fn seal(account: &ProviderAccount, turn: u64, id: &str) -> String {
    let content = format!("{}{turn}/{id}", owner(account));
    format!("{START}{}", BASE64URL_NOPAD.encode(content.as_bytes()))
}

/// The turn that `sealed` was made in, if it was made for this account.
pub(super) fn open(account: &ProviderAccount, sealed: &str) -> Option<u64> {
    let content = BASE64URL_NOPAD.decode(sealed.strip_prefix(START)?.as_bytes()).ok()?;
    let (turn, _) = std::str::from_utf8(&content).ok()?.strip_prefix(&owner(account))?.split_once('/')?;
    turn.parse().ok()
}

fn owner(account: &ProviderAccount) -> String {
    format!("simulator/{}/{}/", account.personality.name(), account.name)
}

#[cfg(test)]
mod tests {
    use super::super::personality::Personality;
    use super::*;

    #[test]
    fn sealed_content_opens_only_for_its_account() {
        let account = |personality, name: &str| ProviderAccount { personality, name: name.into(), is_named: true };
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
