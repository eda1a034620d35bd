#!/bin/bash
#SBATCH --job-name=cj-0badcafe-1-solve
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=4
#SBATCH --ntasks-per-node=1
#SBATCH --mem=1536M
#SBATCH --time=1-02:03:04
#SBATCH --gres=gpu:2
#SBATCH --partition=compute
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --constraint=skylake&ib
#SBATCH --array=0-2%2
#SBATCH --exclusive
#SBATCH --comment="two words"
umask 077
cj_dir=/jobs/1-solve/"$SLURM_ARRAY_TASK_ID"
cj_mark=/jobs/marks/1."$SLURM_ARRAY_TASK_ID"
export CLUSTERJOBS_NATIVE_ID="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
export CLUSTERJOBS_ARRAY_INDEX="$SLURM_ARRAY_TASK_ID"
# One submission runs once: a second copy, made when a reply was lost, finds the claim taken and leaves.
{ set -C; echo "$CLUSTERJOBS_NATIVE_ID" >"$cj_dir/claim"; } 2>/dev/null || {
  read -r cj_owner <"$cj_dir/claim" && [ "$cj_owner" = "$CLUSTERJOBS_NATIVE_ID" ] || exit 0
}
set +C
cj_sweep() {
  for cj_left in $(grep -lzxFs "CLUSTERJOBS_MARK=$cj_mark" /proc/[0-9]*/environ); do
    grep -qzxFs "SLURM_JOB_ID=$SLURM_JOB_ID" "$cj_left" || continue
    cj_left=${cj_left#/proc/}; kill -KILL "${cj_left%/environ}" 2>/dev/null || :
  done
}
trap 'printf %s "${cj_code:-$?}" >"$cj_mark"; cj_sweep' EXIT
export CLUSTERJOBS_MARK="$cj_mark"
: >"$cj_mark.start"
. /jobs/1-solve/environment.sh
cj_child= cj_signal=
cj_on_signal() { cj_signal=$1; [ -z "$cj_child" ] || kill -s "$1" "$cj_child" 2>/dev/null; }
trap 'cj_on_signal TERM' TERM
trap 'cj_on_signal INT' INT
trap 'cj_on_signal XCPU' XCPU
if ! type module >/dev/null 2>&1; then
  for cj_init in /etc/profile.d/{lmod,modules}.sh /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
    [ -r "$cj_init" ] && . "$cj_init" && break
  done
fi
module load gcc/12 || { echo 'clusterjobs: cannot load the environment module gcc/12' >&2; exit 96; }
module load openmpi || { echo 'clusterjobs: cannot load the environment module openmpi' >&2; exit 96; }
source venv/bin/activate
ulimit -s unlimited
[ -z "$cj_signal" ] || exit 143
/usr/bin/python3 -u /jobs/node/start.py "$cj_dir" &
cj_child=$!
[ -z "$cj_signal" ] || cj_on_signal "$cj_signal"  # it came when the child had started and was not known yet
while :; do
  wait "$cj_child" && cj_code=0 || cj_code=$?
  kill -0 "$cj_child" 2>/dev/null || break
done
# A signal may have ended that wait just before the child itself ended: its own code is still to be had.
[ "$cj_code" -le 128 ] || {
  wait "$cj_child" 2>/dev/null && cj_late=0 || cj_late=$?
  case "$cj_late" in 127 | -1) ;; *) cj_code=$cj_late ;; esac  # -1: bash 5.2 has lost it, as it had just reaped it
}
cj_child=
(
export CLUSTERJOBS_EXIT_CODE="$cj_code"
rm -rf scratch
)
exit "$cj_code"
