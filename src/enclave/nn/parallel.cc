#include "enclave/nn/parallel.h"

namespace tempo {
namespace {

constexpr std::int64_t kMaxUnitsPerBlock = 32;  // bounds the partial sums of a reduction

// A unit of work is, within one channel block, some whole images or a range of one image's rows.
struct Units {
  FeatureView view;
  std::int64_t images_per_unit = 1;
  std::int64_t rows_per_unit = 1;  // positions; all of them when images_per_unit > 1
  std::int64_t image_groups = 1;
  std::int64_t row_groups = 1;

  explicit Units(const FeatureView& v) : view(v) {
    const std::int64_t target = std::max(grain_for(v.width), v.rows() / kMaxUnitsPerBlock);
    if (v.positions > target) {
      rows_per_unit = target;
    } else {
      rows_per_unit = v.positions;
      images_per_unit = std::max<std::int64_t>(1, target / v.positions);
    }
    image_groups = (v.images + images_per_unit - 1) / images_per_unit;
    row_groups = (v.positions + rows_per_unit - 1) / rows_per_unit;
  }

  std::int64_t per_block() const { return image_groups * row_groups; }
  std::int64_t count() const { return view.blocks * per_block(); }

  template <class Body>
  void run(std::int64_t unit, const Body& body) const {
    const std::int64_t block = unit / per_block();
    const std::int64_t image = unit % per_block() / row_groups * images_per_unit;
    const std::int64_t row = unit % row_groups * rows_per_unit;
    const std::int64_t last_image = std::min(view.images, image + images_per_unit);
    const std::int64_t rows = std::min(view.positions - row, rows_per_unit);
    for (std::int64_t i = image; i < last_image; ++i) {
      body(RowRun{.offset = view.offset(i, block, row),
                  .rows = rows,
                  .channel = block * view.width,
                  .width = view.width});
    }
  }
};

}  // namespace

void for_row_runs(ThreadPool& pool, const FeatureView& view,
                  const std::function<void(const RowRun&)>& body) {
  const Units units(view);
  const std::int64_t grain = grain_for(view.elements() / units.count());
  pool.parallel_for(units.count(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) units.run(unit, body);
  });
}

std::vector<double> reduce_rows(ThreadPool& pool, const FeatureView& view, int kinds,
                                const std::function<void(const RowRun&, double*)>& body) {
  const Units units(view);
  const std::int64_t stride = kinds * view.width;
  std::vector<double> partial(static_cast<std::size_t>(units.count() * stride), 0.0);
  const std::int64_t grain = grain_for(view.elements() / units.count());
  pool.parallel_for(units.count(), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      double* sums = partial.data() + unit * stride;
      units.run(unit, [&](const RowRun& run) { body(run, sums); });
    }
  });
  std::vector<double> total(static_cast<std::size_t>(kinds * view.channels()), 0.0);
  for (std::int64_t unit = 0; unit < units.count(); ++unit) {
    const std::int64_t block = unit / units.per_block();
    for (std::int64_t k = 0; k < kinds; ++k) {
      double* out = total.data() + k * view.channels() + block * view.width;
      const double* in = partial.data() + unit * stride + k * view.width;
      for (std::int64_t c = 0; c < view.width; ++c) out[c] += in[c];
    }
  }
  return total;
}

}  // namespace tempo
