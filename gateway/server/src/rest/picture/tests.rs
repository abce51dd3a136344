use super::*;
use crate::budget::Budget;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest of it, which is long enough to be wrapped";

async fn found(body: &[u8]) -> Result<Vec<Bytes>, InferError> {
    let mut reservation = Budget::new(1 << 20).reservation();
    let found = pictures(Bytes::copy_from_slice(body), &mut reservation).await;
    found.map(|found| found.pictures)
}

async fn refusal(body: &[u8]) -> String {
    found(body).await.unwrap_err().message
}

#[tokio::test]
async fn a_raw_picture_is_found() {
    assert_eq!(found(PNG).await.unwrap(), [PNG]);
}

#[tokio::test]
async fn base64_is_found_plain_wrapped_quoted_unpadded_and_as_a_data_uri() {
    let text = base64::engine::general_purpose::STANDARD.encode(PNG);
    let wrapped: String = text
        .as_bytes()
        .chunks(10)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    for body in [
        text.clone(),
        wrapped,
        format!("\"{text}\""),
        text.trim_end_matches('=').to_owned(),
        format!("data:image/png;base64,{text}"),
    ] {
        assert_eq!(found(body.as_bytes()).await.unwrap(), [PNG], "{body}");
    }
}

#[tokio::test]
async fn several_pictures_of_a_form_are_found_and_other_fields_passed_over() {
    let mut body =
        b"--x\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n".to_vec();
    for name in ["a", "b"] {
        body.extend(
            format!(
                "--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n"
            )
            .bytes(),
        );
        body.extend(PNG);
        body.extend(b"\r\n");
    }
    body.extend(b"--x--\r\n");
    assert_eq!(found(&body).await.unwrap(), [PNG, PNG]);
}

#[tokio::test]
async fn a_file_that_is_no_picture_is_refused_by_its_name() {
    let body = b"--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"f\"\r\n\r\nhello\r\n--x--\r\n";
    let message = refusal(body).await;
    assert!(message.starts_with("part `a` is no picture"), "{message}");
    assert!(message.contains("text beginning \"hello\""), "{message}");
}

#[tokio::test]
async fn what_is_no_picture_is_refused_with_what_it_looks_like() {
    assert!(refusal(b"").await.starts_with("the body is empty"));
    assert!(
        refusal(b"{\"a\": 1}")
            .await
            .contains("text beginning \"{\\\"a\\\": 1}\"")
    );
    assert!(refusal(&[0, 1, 2, 255]).await.contains("4 bytes beginning"));
    assert!(refusal(b"--\r\n").await.contains("no picture"));
    assert!(refusal(b"--x\r\nnonsense").await.contains("multipart"));
    let broken = format!("{}*", base64::engine::general_purpose::STANDARD.encode(PNG));
    assert!(
        refusal(broken.as_bytes())
            .await
            .contains("not base64 throughout")
    );
}

#[tokio::test]
async fn base64_is_not_decoded_without_room() {
    let text = base64::engine::general_purpose::STANDARD.encode(PNG);
    let mut reservation = Budget::new(10).reservation();
    let error = pictures(text.into(), &mut reservation).await.unwrap_err();
    assert_eq!(error.code, workers_protocol::Code::Overloaded);
}
