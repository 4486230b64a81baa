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
# Mount folders, not files: a container never sees changes of a file that is mounted alone. At a stop Tidegate waits for requests in
# progress, so Docker needs `--stop-timeout`.
#
# `scripts/check-image` tests these steps without a container engine.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The binary contains all of glibc, so the image needs no other file. `--target` keeps these flags from build scripts and macros.
# Random numbers come from the kernel: a static binary cannot look up libc functions at run time, and would need /dev/urandom.
ENV RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target=$(rustc -vV | sed -n 's/^host: //p') \
    && cargo build --locked --profile dist --target "$target" \
    && cp "target/$target/dist/tidegate" /tidegate \
    && mkdir /data

FROM scratch
COPY --from=build /tidegate /tidegate
# A new volume gets its owner from this folder. A mounted folder of the host must belong to 65532, or to the user that runs the image.
# Group 0 may write, because OpenShift runs an image as any user of group 0.
COPY --from=build --chown=65532:0 --chmod=0775 /data /data
# An unprivileged user, by number, because the image has no /etc/passwd.
USER 65532:0
ENV TIDEGATE_DATA_DIR=/data
VOLUME /data
# The data plane. The admin plane listens on the container's loopback only. Use `metrics_listen` for Prometheus.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/tidegate", "healthcheck"]
ENTRYPOINT ["/tidegate"]
CMD ["serve"]
