//! Modes of files in words.

/// A mode of POSIX (type and permissions) as `ls -l` shows it: ten characters.
pub fn text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o060_000 => 'b',
        0o020_000 => 'c',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, with, without) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(text(0o040_755), "drwxr-xr-x");
        assert_eq!(text(0o100_644), "-rw-r--r--");
        assert_eq!(text(0o120_777), "lrwxrwxrwx");
        assert_eq!(text(0o104_755), "-rwsr-xr-x");
        assert_eq!(text(0o041_777), "drwxrwxrwt");
    }
}
