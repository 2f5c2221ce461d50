# An image that runs scripts: `docker build -t tidepool .`, then
#   docker run --rm -v "$PWD:/work" tidepool script.lua
# --build-arg POCL=1 adds OpenCL on the processor, for functions with `gpu`, and 650 MB; ENGINE=1 the server of `tidepool engine up`.
FROM debian:12-slim AS build
WORKDIR /src
COPY . .
RUN ./scripts/setup && make -j"$(nproc)" && make install install-cli DESTDIR=/out PREFIX=/usr

FROM debian:12-slim
ARG POCL=
ARG ENGINE=
RUN apt-get update \
 && apt-get install -y --no-install-recommends libluajit-5.1-2 libuv1 libsqlite3-0 zlib1g libedit2 \
    ocl-icd-libopencl1 libnats3.4 libsodium23 libpng16-16 libmicrohttpd12 ${POCL:+pocl-opencl-icd} ${ENGINE:+nats-server} \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home tidepool
COPY --from=build /out/usr /usr
USER tidepool
WORKDIR /work
ENTRYPOINT ["tidepool"]
