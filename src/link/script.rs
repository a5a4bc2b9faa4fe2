//! The scripts of a node's shells: POSIX sh, and bash where a port has to be dialled.

/// How many bytes a command may print to each stream.
pub(super) const OUTPUT_CAP: usize = 256 * 1024;

/// The exit codes of a command that `timeout` ended: 124, or 128 + 9 if that took a SIGKILL.
pub(super) const TIMED_OUT: [i64; 2] = [124, 137];

/// Runs the command that its arguments name, bounded in two ways: by a time limit in seconds, where
/// the node has `timeout`; and by standard input, which ends when nobody waits for the command any
/// more. A background command has no standard input of its own, hence descriptor 3. The SIGHUP goes
/// to the whole process group, which `timeout` makes: a SIGHUP to `timeout` alone may leave behind
/// a process that it has only just started. A SIGHUP may also be lost: a shell that catches it just
/// before it becomes the command takes it along. So a SIGKILL follows.
pub(super) const BOUNDED: &str = r#"
limit=$1; shift
exec 3<&0
if command -v timeout >/dev/null 2>&1; then set -- timeout -k 1 "$limit" "$@"; fi
"$@" </dev/null 3<&- &
command=$!
{
  read -r _ <&3
  kill -HUP "-$command" || kill -HUP "$command"
  sleep 1
  kill -KILL "-$command" || kill -KILL "$command"
} >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$command"; code=$?
kill "$watch" 2>/dev/null
exit "$code"
"#;

/// A shell function that dials a port through bash, which has this built in. Its arguments are the
/// address and the port with a slash between, the prefix, the maximum number of bytes, and the text to send first, as `%b` of printf takes it. It prints
/// `connected`, then the port's output up to a line with the prefix. Its exit codes are 0 found, 3
/// closed by the other side, 4 too long, 7 refused, 127 no bash. What comes after that much is read and
/// dropped: a connection that is closed with something unread is reset, which a daemon may log.
macro_rules! dial_function {
    () => {
        r#"
rest() { IFS= read -r -t 0.01 -n 4096 line; }
dial() {
  [ -n "$BASH_VERSION" ] || exit 127
  exec 3<>"/dev/tcp/$1" || exit 7
  echo connected
  LC_ALL=C left=$3
  trap '' PIPE
  [ -z "$4" ] || printf '%b' "$4" >&3
  while [ "$left" -gt 0 ]; do
    line=
    IFS= read -r -n "$left" line <&3; more=$?
    printf '%s\n' "$line"
    case $line in "$2"*) rest <&3; exit 0 ;; esac
    [ "$more" = 0 ] || exit 3
    left=$((left - ${#line} - 1))
  done
  rest <&3
  exit 4
}
"#
    };
}

/// The function's name in the node's shell, and the command that replaces it in an exec of its own.
pub(super) const DIAL: &str = "dial";
pub(super) const DIAL_ALONE: [&str; 4] = [
    "bash",
    "-c",
    concat!(dial_function!(), r#"dial "$@""#),
    "bash",
];

/// Starts bash where the node has it: bash can dial ports, and can time a command without another
/// program.
pub(super) const START: &str = r#"command -v bash >/dev/null 2>&1 && exec bash -c "$1"; eval "$1""#;

/// The node's shell. Where it is bash, it ends an hour after the last request. Requests arrive on
/// descriptor 3, which commands do not inherit. While a command runs, the end of descriptor 3 means
/// that nobody waits for the command any more. A command that exceeds its time limit ends with 124,
/// as with timeout(1).
///
/// Where this shell is bash, it runs scripts itself, without another shell.
///
/// Where bash has a clock to stop by (5.0), the shell dials ports itself: without a process, that
/// takes half the time.
pub(super) const SHELL: &str = concat!(
    dial_function!(),
    r#"
here() {
  local LC_ALL=C end left=$4 line more wait code=4
  end=$((${EPOCHREALTIME/[^0-9]/} + 10#${1/./} * 1000))
  exec 4<>"/dev/tcp/$2" || return 7
  echo connected
  trap '' PIPE
  [ -z "$5" ] || printf '%b' "$5" >&4
  while [ "$left" -gt 0 ]; do
    wait=$((end - ${EPOCHREALTIME/[^0-9]/}))
    [ "$wait" -gt 0 ] || { code=124; break; }
    printf -v wait '%d.%06d' $((wait / 1000000)) $((wait % 1000000))
    line=
    IFS= read -r -t "$wait" -n "$left" line <&4; more=$?
    printf '%s\n' "$line"
    case $line in "$3"*) code=0; break ;; esac
    [ "$more" -lt 129 ] || { code=124; break; }
    [ "$more" = 0 ] || { code=3; break; }
    left=$((left - ${#line} - 1))
  done
  rest <&4
  trap - PIPE
  exec 4>&-
  return "$code"
}
script() {
  local text=$1
  shift
  [ "$#" = 0 ] || shift
  eval "$text"
}
run() {
  nonce=$1 limit=$2; shift 2
  if [ "$1" = dial ] && [ -n "$EPOCHREALTIME" ]; then
    shift
    here "$limit" "$@"; code=$?
    mark
    return
  fi
  if [ -z "$BASH_VERSION" ] && command -v timeout >/dev/null 2>&1 && [ "$1" != dial ]; then
    set -- timeout -k 1 "$limit" "$@"
  fi
  if [ -n "$BASH_VERSION" ] && [ "$1 $2" = "sh -c" ]; then
    shift 2
    set -- script "$@"
  fi
  "$@" </dev/null 3<&- &
  command=$!
  {
    if [ -n "$BASH_VERSION" ]; then read -r -t "$limit" _; else read -r _; fi <&3
    if [ $? -gt 128 ]; then kill -ALRM "$command"; sleep 1; kill -KILL "$command"; fi
    kill -HUP "-$command" || kill -HUP "$command"
    sleep 1
    kill -KILL "-$command" || kill -KILL "$command"
  } >/dev/null 2>&1 &
  watch=$!
  wait "$command"; code=$?
  { kill "$watch"; wait "$watch"; } 2>/dev/null
  [ "$code" != 142 ] || code=124
  mark
}
mark() {
  printf '\n%s %s\n' "$nonce" "$code"
  printf '\n%s %s\n' "$nonce" "$code" >&2
}
next() {
  if [ -n "$BASH_VERSION" ]; then IFS= read -r -t 3600 line; else IFS= read -r line; fi <&3
}
exec 3<&0 </dev/null
request=
while next; do
  case $line in
    .) eval "$request"; request= ;;
    *) request="$request$line
" ;;
  esac
done
"#
);
