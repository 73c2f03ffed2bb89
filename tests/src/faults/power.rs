//! A loss of power: the host's trace is cut at many places, and of what was not synced by then any part is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::sender::{Acknowledged, Senders};
use super::shim::{Fault, LOG, OTHER, STORE};
use super::trace::{Disk, Luck, Reader};
use super::{Figures, Tools, look};
use crate::guest::put_version;
use crate::host::{PATIENCE, Setup};

/// How long events come in.
const LOAD: Duration = Duration::from_millis(2_500);
/// Places at which a trace is cut.
const CUTS: usize = 40;
/// Folders whose loss costs time and nothing else: they are made anew, by another process in part.
const MADE_ANEW: [&str; 1] = ["compiled"];

/// One host, one trace, many cuts. In every other round the disk fails while it is written.
pub(super) async fn round(tools: &Tools<'_>) -> anyhow::Result<Figures> {
    let mut random = StdRng::seed_from_u64(tools.seed);
    let plugins = tempfile::tempdir()?;
    put_version(tools.guests, plugins.path(), 1)?;
    let mut setup = Setup::new()?.plugins(plugins.path()).more("[retry]\nfirst_ms = 1\nlongest_ms = 20");
    // The first events come while the folder is new, and plugins are made ready.
    setup.settled = false;
    let (setup, folder, steering) = tools.shim.load(setup, true)?;
    let mut host = setup.start_in(folder).await?;
    let trace = steering.trace().to_owned();
    let position = move || std::fs::metadata(&trace).map_or(0, |trace| trace.len());
    let senders = Senders::start(&host.hook(), 4, Duration::from_millis(2), position)?;
    let fault = match tools.seed % 4 {
        1 => Some((Fault::SyncFails, STORE | LOG)),
        3 => Some((Fault::WriteFails, STORE | LOG | OTHER)),
        _ => None,
    };
    for version in 2..5 {
        tokio::time::sleep(LOAD / 4).await;
        put_version(tools.guests, plugins.path(), version)?;
        if let Some((fault, files)) = fault {
            steering.fail(if version == 3 { fault } else { Fault::None }, files, 4, tools.seed)?;
        }
    }
    tokio::time::sleep(LOAD / 4).await;
    steering.fail(Fault::None, 0, 0, 0)?;
    if random.random_bool(0.5) {
        host.kill()?;
    } else {
        host.stop().await?;
    }
    let sent = senders.stop().await?;
    let injected = steering.injected()?;
    let trace = steering.trace().to_owned();
    let folder = host.folder().to_owned();
    let acknowledged = sent.acknowledged;
    let replayed = tokio::task::spawn_blocking(move || replay(&trace, &folder, acknowledged, random));
    let (figures, last) = match replayed.await? {
        Ok(done) => done,
        Err(error) => {
            let kept = steering.keep();
            return Err(error.context(format!("the trace is kept in `{}`", kept.display())));
        }
    };
    // The last of the disks is the real host's: it starts, and brings to an end what is there.
    resume(&mut host, &last).await.context("the host on the disk after the loss of power")?;
    Ok([&figures[..], &[("injected", injected), ("refused", sent.refused)]].concat())
}

type Image = BTreeMap<PathBuf, Vec<u8>>;

fn replay(
    trace: &Path,
    folder: &Path,
    acknowledged: Vec<Acknowledged>,
    mut random: StdRng,
) -> anyhow::Result<(Figures, (Image, Vec<Acknowledged>))> {
    let mut reader = Reader::open(trace)?;
    let mut disk = Disk::default();
    // Some just after an acknowledgement, where it hurts most; the others anywhere.
    let mut cuts: Vec<u64> = (0..CUTS).map(|_| random.random_range(0..reader.end())).collect();
    for _ in 0..if acknowledged.is_empty() { 0 } else { CUTS / 2 } {
        let index = random.random_range(0..acknowledged.len());
        cuts.extend(acknowledged.get(index).map(|event| event.at));
    }
    cuts.sort_unstable();
    let mut figures = (0, 0);
    let mut last = None;
    for cut in cuts {
        let luck = Luck::of(&mut random);
        disk.go_to(cut, &mut reader, &mut random)?;
        let image = disk.image(luck, &mut random);
        let before: Vec<Acknowledged> = acknowledged.iter().filter(|event| event.at <= cut).cloned().collect();
        let laid = Laid::out(&image, folder)?;
        look::data(&laid.data, &before)
            .with_context(|| format!("cut at {cut} of {} bytes of the trace, of the rest {luck:?}", reader.end()))?;
        figures = (figures.0 + 1, figures.1 + before.len());
        last = Some((image, before));
    }
    let end = reader.end();
    disk.go_to(end, &mut reader, &mut random)?;
    disk.is_all(&MADE_ANEW, &mut random)?;
    let (cuts, checked) = figures;
    let figures = vec![
        ("acknowledged", u64::try_from(acknowledged.len())?),
        ("cuts", cuts),
        ("looked_for", u64::try_from(checked)?),
    ];
    Ok((figures, last.context("nothing was cut")?))
}

/// An image on a disk of memory.
struct Laid {
    data: PathBuf,
    _folder: TempDir,
}

impl Laid {
    fn out(image: &Image, root: &Path) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
        write_out(image, root, folder.path())?;
        let data = folder.path().join("data");
        Ok(Self { data, _folder: folder })
    }
}

fn write_out(image: &Image, root: &Path, to: &Path) -> anyhow::Result<()> {
    for (path, bytes) in image {
        let inner = path.strip_prefix(root)?;
        if MADE_ANEW.iter().any(|part| inner.iter().any(|component| component == *part)) {
            continue;
        }
        let path = to.join(inner);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

async fn resume(
    host: &mut crate::host::Host,
    (image, acknowledged): &(Image, Vec<Acknowledged>),
) -> anyhow::Result<()> {
    if host.pid().is_some() {
        host.kill()?;
    }
    let (root, data) = (host.folder().to_owned(), host.data());
    for entry in std::fs::read_dir(&data)? {
        let path = entry?.path();
        if MADE_ANEW.iter().any(|part| path.ends_with(part)) {
            continue;
        }
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    write_out(image, &root, &root)?;
    host.start().await?;
    host.idle(PATIENCE).await?;
    let (status, told) = host.post("event=test.sin&sin=none&n=after").await?;
    anyhow::ensure!(status == 202, "it takes no event: {status} {told}");
    host.idle(PATIENCE).await?;
    host.stop().await?;
    let (file, acknowledged) = (data.join("journal.sqlite"), acknowledged.clone());
    tokio::task::spawn_blocking(move || look::over(&file, &acknowledged)).await??;
    Ok(())
}
