# The image: one static binary in an empty root.
#
#   docker build -t tidegate .
#   docker run --stop-timeout 310 -p 8080:8080 -e DMXAPI_API_KEY -e TIDEGATE_KEY -v tidegate:/data --read-only tidegate
#
# With a configuration of your own, and its secrets as files:
#
#   docker run --stop-timeout 310 -p 8080:8080 -v tidegate:/data -v ./config:/etc/tidegate:ro -v ./secrets:/run/secrets:ro \
#     -e TIDEGATE_CONFIG=/etc/tidegate/tidegate.toml --read-only tidegate
#
# Mount folders, not files: of a file that is mounted alone no change is ever seen. Stopping waits for requests under way, for which
# Docker needs `--stop-timeout`.
#
# `scripts/check-image` holds what follows without a container engine.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# All of glibc inside, so that nothing is needed outside. The flags would reach build scripts and macros too if no target were named.
# Random numbers come from the kernel: what is linked statically cannot look its libc up at run time, and would want /dev/urandom.
ENV RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target=$(rustc -vV | sed -n 's/^host: //p') \
    && cargo build --locked --profile dist --target "$target" \
    && cp "target/$target/dist/tidegate" /tidegate \
    && mkdir /data

FROM scratch
COPY --from=build /tidegate /tidegate
# A new volume takes its owner from here; a folder of the host that is mounted must belong to 65532, or to the user that the image
# runs as. Group 0 may write: OpenShift runs an image as a user of its own choice and of this group.
COPY --from=build --chown=65532:0 --chmod=0775 /data /data
# Nobody: by number, as there is no file of users.
USER 65532:0
ENV TIDEGATE_DATA_DIR=/data
VOLUME /data
# The data plane. The admin plane stays on the container's own loopback; `metrics_listen` is for Prometheus.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/tidegate", "healthcheck"]
ENTRYPOINT ["/tidegate"]
CMD ["serve"]
