# Gives the machine disks of its own. Arguments: folders that stay what they are.
# An open descriptor still finds a folder that a mount covers.
set -eu
number=3
for folder; do eval "exec $number<\"\$folder\""; number=$((number + 1)); done
mount -t tmpfs -o mode=755 layers /mnt
for folder in etc var root; do
    mkdir -p /mnt/$folder /mnt/work-$folder
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/$folder,workdir=/mnt/work-$folder /$folder
done
mkdir -p /mnt/run /mnt/tmp
chmod 1777 /mnt/tmp
mount --rbind /mnt/tmp /tmp
mount --bind /mnt/run /run
number=3
for folder; do
    mkdir -p "$folder"
    mount --no-canonicalize --rbind "/proc/self/fd/$number" "$folder"
    number=$((number + 1))
done
mkdir -m 755 /etc/exclave /run/exclave
mkdir -m 700 /var/lib/exclave
