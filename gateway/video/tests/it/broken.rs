use std::fs;

use gateway_video::Wanted;

use crate::{ALL, Site, all};

#[tokio::test]
async fn a_video_that_is_cut_short_fails_where_it_is() {
    let Some(site) = Site::with("vtest.avi") else {
        return;
    };
    let whole = fs::read(site.input()).unwrap();
    fs::write(site.input(), &whole[..1_000_000]).unwrap();
    let (frames, end) = all(site.open(ALL).await).await;
    // How many come before it is noticed is ffmpeg's.
    let last = frames.len() - 1;
    assert!((80..=100).contains(&last), "{last}");
    let error = end.unwrap_err();
    let place = format!(
        "the video can't be read beyond frame {last} ({} s): ",
        last as f64 / 10.0
    );
    assert!(error.starts_with(&place), "{error}");
    assert!(error.contains("corrupt input packet"), "{error}");
}

#[tokio::test]
async fn a_video_that_is_cut_short_between_two_frames_fails_too() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    site.make(&["-i", "input", "-c", "copy", "copy.mkv"]);
    let whole = fs::read(site.folder.path().join("copy.mkv")).unwrap();
    fs::write(site.folder.path().join("cut.mkv"), &whole[..300_000]).unwrap();
    let (frames, end) = all(site.open_file("cut.mkv", ALL).await).await;
    assert!((100..250).contains(&frames.len()), "{}", frames.len());
    let error = end.unwrap_err();
    assert!(error.contains("ended prematurely"), "{error}");
}

#[tokio::test]
async fn a_video_without_its_index_can_not_be_read() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let whole = fs::read(site.input()).unwrap();
    fs::write(site.input(), &whole[..300_000]).unwrap();
    let (frames, end) = all(site.open(ALL).await).await;
    assert!(frames.is_empty());
    let error = end.unwrap_err();
    assert!(error.starts_with("the video can't be read: "), "{error}");
    assert!(error.contains("moov atom not found"), "{error}");
}

#[tokio::test]
async fn limits_hold_before_a_frame_is_taken() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    let cases = [
        (
            Wanted {
                max_pixels: 1000,
                ..ALL
            },
            0,
            "the video can't be read: ",
        ),
        (
            Wanted {
                max_bytes: 1000,
                ..ALL
            },
            0,
            "the video can't be read: a frame has 522294 bytes, expected at most 1000",
        ),
        (
            Wanted {
                max_frames: 10,
                ..ALL
            },
            10,
            "the video can't be read beyond frame 9 (0.36 s): it has more than 10 frames",
        ),
    ];
    for (wanted, n_frames, sentence) in cases {
        let (frames, end) = all(site.open(wanted).await).await;
        let error = end.unwrap_err();
        assert_eq!(frames.len(), n_frames, "{error}");
        assert!(error.starts_with(sentence), "{error}");
    }
}

#[tokio::test]
async fn nothing_but_the_video_is_read() {
    let Some(site) = Site::with("bikes.mp4") else {
        return;
    };
    fs::copy(site.input(), site.folder.path().join("other.mp4")).unwrap();
    for content in [
        "#EXTM3U\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'other.mp4'\n",
    ] {
        // A playlist that was taken for a video.
        fs::write(site.input(), content).unwrap();
        let place = (site.folder.path(), "input");
        for container in [
            gateway_video::Container::Mp4,
            gateway_video::Container::Avi,
            gateway_video::Container::Matroska,
        ] {
            let frames = gateway_video::Frames::open(&site.ffmpeg, place, container, ALL).await;
            let (frames, end) = all(frames.unwrap()).await;
            assert!(frames.is_empty());
            assert!(end.is_err());
        }
    }
}

#[tokio::test]
async fn ffmpeg_ends_with_those_who_need_it_and_has_nothing_of_ours() {
    let Some(site) = Site::with("vtest.avi") else {
        return;
    };
    let mut frames = site.open(ALL).await;
    frames.next_len().await.unwrap();
    let folder = site.folder.path().canonicalize().unwrap();
    let there = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut there = processes.map(|process| process.path());
        there.find(|process| fs::read_link(process.join("cwd")).is_ok_and(|at| at == folder))
    };
    let process = there().unwrap();
    assert_eq!(fs::read(process.join("environ")).unwrap(), b"");
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..]
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max data size"), (3_u64 << 30).to_string());
    assert_eq!(limit("Max cpu time"), "43200");
    drop(frames);
    while there().is_some() {
        tokio::task::yield_now().await;
    }
}
