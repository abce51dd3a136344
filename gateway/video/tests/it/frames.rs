use gateway_video::{Film, Wanted};

use crate::{ALL, Site, all};

#[tokio::test]
async fn frames_come_whole_with_their_numbers_and_times() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let (frames, end) = all(site.open(ALL).await).await;
    assert_eq!(end, Ok(()));
    assert_eq!(frames.len(), 250);
    for (number, frame) in (0_u32..).zip(&frames) {
        assert_eq!(frame.number, u64::from(number));
        assert!(
            (frame.time - f64::from(number) / 25.0).abs() < 1e-3,
            "{frame:?}"
        );
        // 24 bits a pixel, and the header.
        assert_eq!(frame.picture.len(), 3 * 640 * 272 + 54);
        assert!(frame.picture.starts_with(b"BM"));
    }
}

#[tokio::test]
async fn frames_are_taken_at_the_rate_that_is_wanted() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let fps = Some(2.5);
    let (frames, end) = all(site.open(Wanted { fps, ..ALL }).await).await;
    assert_eq!(end, Ok(()));
    let times: Vec<_> = frames.iter().map(|frame| frame.time).collect();
    let expected: Vec<_> = (0..25).map(|number| f64::from(number * 4) / 10.0).collect();
    assert_eq!(times, expected);
}

#[tokio::test]
async fn every_container_is_read() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let copy = ["-i", "input", "-frames:v", "30", "-an", "-c:v", "copy"];
    for (arguments, file) in [
        (&copy[..], "copy.mkv"),
        (&copy[..], "copy.mov"),
        (&["-i", "input", "-frames:v", "30", "-an"][..], "made.avi"),
        (&["-i", "input", "-frames:v", "30", "-an"][..], "made.webm"),
    ] {
        site.make(&[arguments, &[file]].concat());
        let (frames, end) = all(site.open_file(file, ALL).await).await;
        assert_eq!((frames.len(), end), (30, Ok(())), "{file}");
    }
}

#[tokio::test]
async fn a_film_shows_each_picture_at_its_time() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    // An odd side, which no encoder takes as it is.
    let odd = [
        "-i",
        "input",
        "-frames:v",
        "4",
        "-vf",
        "format=yuv444p,crop=101:75",
        "%d.jpg",
    ];
    site.make(&odd);
    let place = (site.folder.path(), "film.mp4");
    let mut film = Film::begin(&site.ffmpeg, place, 1 << 20).await.unwrap();
    let times = [0.0, 0.04, 1.5, 2.001];
    for (number, time) in (1..).zip(times) {
        let picture = std::fs::read(site.folder.path().join(format!("{number}.jpg"))).unwrap();
        film.add(time, &picture).await.unwrap();
    }
    film.finish().await.unwrap();
    let (frames, end) = all(site.open_file("film.mp4", ALL).await).await;
    assert_eq!(end, Ok(()));
    let shown: Vec<_> = frames.iter().map(|frame| frame.time).collect();
    assert_eq!(shown, times);
    assert!(
        frames
            .iter()
            .all(|frame| frame.picture.len() == 3 * 76 * 102 + 2 * 76 + 54)
    );
}

#[tokio::test]
async fn a_film_of_what_is_no_picture_fails() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let place = (site.folder.path(), "film.mp4");
    let mut film = Film::begin(&site.ffmpeg, place, 1 << 20).await.unwrap();
    let _ = film.add(0.0, b"no picture").await;
    let error = film.finish().await.unwrap_err();
    assert!(
        error.starts_with("the drawn video can't be made: "),
        "{error}"
    );
}
