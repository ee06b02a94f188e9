# What compose.yaml takes from a registry, as far as the stack uses it, of Debian's packages: engine.sh builds it.
FROM stand-in/python AS base
ARG DEBIAN_MIRROR=http://deb.debian.org
RUN sed -i "s#http://deb.debian.org#$DEBIAN_MIRROR#" /etc/apt/sources.list.d/debian.sources && apt-get update

FROM base AS postgres
RUN apt-get install --yes --no-install-recommends postgresql postgresql-contrib \
  && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
  && install --directory --owner postgres --mode 700 /var/lib/postgresql/data
COPY postgres.sh /
STOPSIGNAL SIGINT
USER postgres
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["bash", "/postgres.sh"]

FROM base AS rclone
RUN apt-get install --yes --no-install-recommends netcat-openbsd
COPY --from=programs rclone /usr/local/bin/
