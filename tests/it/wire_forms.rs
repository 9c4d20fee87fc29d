//! One reading of the bytes: every file of `tests/wire` is a way to show two programs two messages.

mod form;

use etcd_warden::wire;
use form::Verdict;

#[test]
fn each_form_is_refused_at_its_field_and_offset_or_has_one_reading() {
    let forms = form::all();
    let refused = forms.iter().filter(|form| form.verdict != Verdict::Judged).count();
    assert!(refused >= 40, "at least 40 hostile encodings, not {refused}");
    let mut wrong = Vec::new();
    for form in forms {
        let found = match wire::inspect(form.method, &form.bytes) {
            Ok(_) => Verdict::Judged,
            Err(malformed) => Verdict::Refused(malformed.to_string()),
        };
        if found != form.verdict {
            wrong.push(format!("{} ({}): expected {:?}, found {found:?}", form.name, form.what, form.verdict));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
