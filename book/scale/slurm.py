"""A sweep on Slurm: workers are jobs, and this script, on the login node, coordinates.

python -m pip install dask-jobqueue
DASK_CONFIG=book/scale/tls.yaml python book/scale/slurm.py
"""

from dask_jobqueue import SLURMCluster
from distributed.security import Security

from modalign import rerun

if __name__ == "__main__":
    with SLURMCluster(
        # yours: the partition, the account, the time after which a worker is ended
        queue="gpu",
        account="project",
        walltime="02:00:00",
        # yours: the network that the nodes share; with TLS nobody connects without the certificate
        interface="ib0",
        security=Security(),
        scheduler_options={"dashboard_address": "127.0.0.1:8787"},
        # a job is one worker, which makes one run at a time
        cores=1,
        processes=1,
        memory="8GB",
        job_extra_directives=["--gres=gpu:1"],
        # a worker that reaches its walltime in the middle of a run ends itself before
        worker_extra_args=[
            *("--lifetime", "110m", "--lifetime-stagger", "5m"),
            *("--dashboard-address", "127.0.0.1:0"),
        ],
    ) as cluster:
        cluster.adapt(minimum_jobs=0, maximum_jobs=8)
        outcome = rerun.sweep(
            "cka-loss",
            {"lambda_cka": [0, 0.1]},
            seeds=5,
            parameters={"device": "cuda"},
            output="runs",
            scheduler=cluster,
        )
    print(outcome)
