//! Globs over names: `*` stands for any characters, everything else for itself.

/// True if `glob`, in which `*` stands for any characters, fits all of `name`.
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut g, mut n) = (0, 0);
    // Where the last `*` was and what it has eaten so far: all the backtracking there is, so no input takes long.
    let mut star = None;
    while n < name.len() {
        if glob.get(g) == Some(&b'*') {
            star = Some((g, n));
            g += 1;
        } else if glob.get(g) == name.get(n) {
            (g, n) = (g + 1, n + 1);
        } else if let Some((at, eaten)) = star {
            star = Some((at, eaten + 1));
            (g, n) = (at + 1, eaten + 1);
        } else {
            return false;
        }
    }
    glob.iter().skip(g).all(|&b| b == b'*')
}
