#!/bin/sh
# Workers of a cluster as a job of Slurm: as many as there are nodes, one a node, each with all of its processors.
#
#   sbatch --nodes 100 --time 2:00:00 deploy/slurm.sh
#
# with TIDEPOOL_ENGINE=tls://LOGIN-NODE:4222, which `tidepool engine up --listen 0.0.0.0:4222` has started there, and the token in a file that only
# you can read: ~/.tidepool-token, or TIDEPOOL_TOKEN_FILE. The script itself runs on the login node, or anywhere.
#
# Workers come and go at will: nothing else has to know of this job. Before the time limit they let what they run finish, and what they have not
# finished runs on other nodes; without work for 5 minutes they give the nodes back.
#SBATCH --job-name=tidepool
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@60
#SBATCH --requeue
TIDEPOOL_TOKEN=$(cat "${TIDEPOOL_TOKEN_FILE:-$HOME/.tidepool-token}") || exit
export TIDEPOOL_TOKEN
exec srun --kill-on-bad-exit=0 tidepool worker --idle-exit 300 --grace 50
