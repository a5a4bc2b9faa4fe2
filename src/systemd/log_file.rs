//! The end of a daemon's own log file, where its journal does not say why it has failed.

/// A shell function that prints the end of the log file of a daemon of Slurm, as its configuration names it
/// (`SlurmctldLogFile`, `SlurmdLogFile` of slurm.conf(5), `LogFile` of slurmdbd.conf(5)). Its argument is the
/// daemon's unit. It reads regular files alone, and the node's root is its root. It needs the function
/// `limited`.
macro_rules! log_file_function {
    () => {
        concat!(
            r#"
log_of() {
  case $1 in
    slurmctld.service) key=slurmctldlogfile ;;
    slurmd.service) key=slurmdlogfile ;;
    slurmdbd.service) key=logfile ;;
    *) return ;;
  esac
  "#,
            find_slurm_conf!(),
            r#"
  [ "$key" != logfile ] || conf=${conf%/*}/slurmdbd.conf
  file=$(grep -i "^[[:space:]]*$key[[:space:]]*=" "$conf" 2>/dev/null | tail -n 1)
  file=${file#*=}
  file=$(echo ${file%%#*} | tr -d '"')
  read -r host </proc/sys/kernel/hostname
  # slurmd puts the node's name there, slurmctld does not.
  until [ -e "$file" ]; do
    case $file in
      *%[hn]*) file=${file%%%[hn]*}${host%%.*}${file#*%[hn]} ;;
      *) return ;;
    esac
  done
  case $file in /*) ;; *) return ;; esac
  [ -f "$file" ] && [ -r "$file" ] || return
  echo "The end of $file:"
  limited 2 tail -c 8192 "$file" | tail -n 20
}
"#
        )
    };
}
pub(super) use log_file_function;
