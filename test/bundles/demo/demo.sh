# The demo container: one process counts into a pipe, another writes what comes out to a file outside.
echo "written at the start, kept in memory only" >/tmp/note
counter() {
  n=0
  while :; do
    n=$((n + 1))
    echo $n
    sleep 0.1
  done
}
writer() {
  while read -r n; do
    echo "$n" >>/data/counter
  done
}
counter | writer
